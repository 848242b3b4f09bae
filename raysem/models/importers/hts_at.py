"""HTS-AT checkpoints (`HTSAT_AudioSet_Saved_1.ckpt` and its kind): Lightning files, names under `sed_model.`."""

# Shapes: S tokens of a window.

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from raysem.audio.logmel import LogMel, LogMelSettings
from raysem.errors import ConfigError, DataError
from raysem.models.checkpoint import check_keys
from raysem.models.encoder import WaveformEncoder
from raysem.models.hts_at import PATCH_SIZE, HtsAtSettings
from raysem.models.importers.network import NUM_CLASSES, load_network, require_prefix, without
from raysem.models.importers.panns import FRONT_END
from raysem.models.importers.pth import read_state_dict
from raysem.models.registry import WAVEFORM_ENCODERS, EncoderDesign

PREFIX = "sed_model."
# Part of a published name: that of the name in `HtsAt`; in this order.
RENAMED = (
    (r"^(bn0|patch_embed|layers|norm)\.", r"base.audio_encoder.\1."),
    (r"\.bn0\.", ".batch_norm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.relative_position", ".attention.self.relative_position"),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
SPLIT, PARTS = ".attn.qkv.", ("query", "key", "value")


def load_hts_at(
    location: str,
    *,
    design: EncoderDesign = WAVEFORM_ENCODERS["hts_at"],
    with_classes: bool = True,
    num_classes: int = NUM_CLASSES,
    key: str = "encoder.location",
) -> WaveformEncoder:
    """The encoder in evaluation mode; mel matrix and STFT are the file's, as for PANNs.

    Left out by name: `head`, which takes part in no result where there is the token-semantic classifier, and the masks
    of shifted windows, which follow from the numbers. Anything else that is missing or left over is a DataError.

    Args:
        with_classes: false leaves the classifier out.
    """
    if not isinstance(design.network, HtsAtSettings) or not isinstance(design.front_end, LogMelSettings):
        raise ConfigError(f"{key}: expected the design of an HTS-AT, not {type(design.network).__name__}")
    settings = design.network.model_copy(update={"num_classes": num_classes})
    file = read_state_dict(location, key=key, entry="state_dict")
    require_prefix(file, PREFIX, location)
    state = {name.removeprefix(PREFIX): tensor for name, tensor in file.items()}
    state = without(state, _left_out(settings, num_classes), location)
    log_mel, state = _front_end(state, design.front_end, location)
    network = load_network(settings, _renamed(state, location), with_classes=with_classes, where=location)
    return WaveformEncoder(log_mel, network, crop_seconds=design.crop_seconds).eval()


def _left_out(settings: HtsAtSettings, num_classes: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"head.weight": (num_classes, num_classes), "head.bias": (num_classes,)}
    for stage, depth in enumerate(settings.depths):
        side = settings.image_size // PATCH_SIZE // 2**stage
        if side > settings.window:  # else there is one window, and nothing is shifted
            mask = ((side // settings.window) ** 2, settings.window**2, settings.window**2)
            shapes |= {f"layers.{stage}.blocks.{layer}.attn_mask": mask for layer in range(1, depth, 2)}
    return shapes


def _front_end(state: Mapping[str, Tensor], settings: LogMelSettings, where: str) -> tuple[LogMel, dict[str, Tensor]]:
    """The file's front end, and the tensors that are not of it."""
    expected = LogMel(settings.model_copy(update={"kernels": "stored"})).state_dict()
    shapes = {source: expected[name] for source, name in FRONT_END.items()}
    shapes = {source: kernel[:, None] if "stft" in source else kernel for source, kernel in shapes.items()}
    kernels = {source: tensor for source, tensor in state.items() if source in shapes}
    check_keys(kernels, shapes, where)
    mel_WF, real_WS, imag_WS = (kernels[source] for source in FRONT_END)
    others = {name: tensor for name, tensor in state.items() if name not in shapes}
    return LogMel.from_kernels(settings, mel_WF, real_WS, imag_WS), others


def _renamed(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors under the names of `HtsAt`, query, key and value apart."""
    renamed: dict[str, Tensor] = {}
    for published, tensor in state.items():
        name = published
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if SPLIT in name:
            if tensor.shape[0] % 3:
                raise DataError(f"{where}: {published} {tuple(tensor.shape)} is not query, key and value in one")
            for part, piece in zip(PARTS, tensor.chunk(3), strict=True):
                renamed[name.replace(SPLIT, f".attention.self.{part}.")] = piece
        else:
            # Published averages of several checkpoints hold whole numbers as floats.
            renamed[name] = tensor.to(torch.int64) if name.endswith(("_index", "_tracked")) else tensor
    return renamed
