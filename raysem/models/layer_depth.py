"""How deep a model's parameters lie: for learning rates that fall from the head down to the input."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from raysem.models.ast import Ast
from raysem.models.cnn14 import Cnn14
from raysem.models.encoder import SpectrogramNetwork, WaveformEncoder
from raysem.models.hts_at import HtsAt
from raysem.models.mobilenet_v3 import MobileNetV3
from raysem.models.passt import Passt

NETWORK = "encoder.network."
HEADS = ("classifier.", "projection.", "similarity.", "text_", "logit_scale")
END_OF_STAGE = sys.maxsize
_Block = tuple[int, ...]


@dataclass(frozen=True)
class _Anatomy:
    """Beginnings of the names of a network's parameters, as regular expressions; `block` gives the number of one."""

    first: str
    block: str
    last: str


_ANATOMIES: dict[type[SpectrogramNetwork], _Anatomy] = {
    Ast: _Anatomy(r"base\.embeddings\.", r"base\.layers\.(\d+)\.", r"base\.layernorm\.|head\."),
    Cnn14: _Anatomy(r"bn0\.", r"conv_block(\d+)\.", r"fc1\.|fc_audioset\."),
    # A stage ends with the merging of its patches: part of the stage's last block.
    HtsAt: _Anatomy(
        r"base\.audio_encoder\.(?:batch_norm|patch_embed)\.",
        r"base\.audio_encoder\.layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.",
        r"base\.audio_encoder\.norm\.|tscam_conv\.",
    ),
    # The first and the last convolution have no `block`.
    MobileNetV3: _Anatomy(r"features\.0\.\d", r"features\.(\d+)\.block\.", r"features\.[1-9]\d*\.\d|classifier\."),
    Passt: _Anatomy(
        r"(?:cls_token|dist_token|(?:freq_|time_)?new_pos_embed)$|patch_embed\.", r"blocks\.(\d+)\.", r"norm\.|head\."
    ),
}


class Encoding(Protocol):
    """A model on top of an encoder, such as a tagger."""

    encoder: WaveformEncoder

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


def layer_depths(model: Encoding) -> dict[str, int]:
    """The depth of every parameter by its name, from 0 to `num_layers(model)`.

    0 is what comes before the first block (front end, patches, positions, first convolution or batch norm), then one
    for each block of the encoder in order, and `num_layers` what comes after the last: norm, last layers, classifier,
    projection, similarity module and text tower. Layer-wise decay (BEiT; Bao et al. 2021) takes the learning rate times
    decay ** (num_layers - depth).

    Raises:
        ValueError: a parameter that nobody has placed.
    """
    anatomy = _ANATOMIES[type(model.encoder.network)]
    names = [name for name, _ in model.named_parameters()]
    blocks = sorted({block for name in names if (block := _block(name, anatomy)) and block[-1] != END_OF_STAGE})
    return {name: _depth(name, anatomy, blocks) for name in names}


def num_layers(model: Encoding) -> int:
    """The depth of the classifier: the number of the encoder's blocks, and one."""
    return max(layer_depths(model).values())


def _depth(name: str, anatomy: _Anatomy, blocks: list[_Block]) -> int:
    block = _block(name, anatomy)
    if block is not None:
        return bisect_right(blocks, block)  # the end of a stage lies with the last block before it
    inner = name.removeprefix(NETWORK)
    if name.startswith("encoder.front_end.") or (inner != name and re.match(anatomy.first, inner)):
        return 0
    if name.startswith(HEADS) or (inner != name and re.match(anatomy.last, inner)):
        return len(blocks) + 1
    raise ValueError(f"{name}: layer_depth.py does not say how deep it lies")


def _block(name: str, anatomy: _Anatomy) -> _Block | None:
    """Numbers by which the blocks are in order, (stage, block) where there are stages; None outside of them."""
    found = re.match(anatomy.block, name.removeprefix(NETWORK)) if name.startswith(NETWORK) else None
    return tuple(int(number) if number else END_OF_STAGE for number in found.groups()) if found else None
