"""Importers of encoders against plain forwards, on random checkpoints of exactly the published names and shapes."""

# Shapes: B clips, T samples, S samples of a window, W bins or width, N frames, F mel bins, C channels, L tokens.

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raysem.errors import ConfigError, DataError
from raysem.models.encoder import WaveformEncoder
from raysem.models.importers.efficientat import load_efficientat
from raysem.models.importers.hts_at import load_hts_at
from raysem.models.importers.passt import load_passt
from raysem.models.pretrained import EncoderSource, load_encoder
from raysem.models.registry import WAVEFORM_ENCODERS, encoder_design

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]

# Kernel, channels in, expanded, out, squeezed (0: no gate), stride, hard swish.
MN10_BLOCKS = [
    (3, 16, 16, 16, 0, 1, False),
    (3, 16, 64, 24, 0, 2, False),
    (3, 24, 72, 24, 0, 1, False),
    (5, 24, 72, 40, 24, 2, False),
    (5, 40, 120, 40, 32, 1, False),
    (5, 40, 120, 40, 32, 1, False),
    (3, 40, 240, 80, 0, 2, True),
    (3, 80, 200, 80, 0, 1, True),
    (3, 80, 184, 80, 0, 1, True),
    (3, 80, 184, 80, 0, 1, True),
    (3, 80, 480, 112, 120, 1, True),
    (3, 112, 672, 112, 168, 1, True),
    (5, 112, 672, 160, 168, 2, True),
    (5, 160, 960, 160, 240, 1, True),
    (5, 160, 960, 160, 240, 1, True),
]


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def layer_norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def batch_norm(name: str, width: int) -> Shapes:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (width,) for part in names} | {f"{name}.num_batches_tracked": ()}


def conv_norm(name: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    return {f"{name}.0.weight": (outputs, inputs, kernel, kernel)} | batch_norm(f"{name}.1", outputs)


def mn10_shapes() -> Shapes:
    shapes = conv_norm("features.0", 1, 16, 3)
    for number, (kernel, inputs, expanded, outputs, squeezed, _, _) in enumerate(MN10_BLOCKS, start=1):
        parts: list[Shapes] = []
        name = f"features.{number}.block"
        if expanded != inputs:
            parts.append(conv_norm(f"{name}.{len(parts)}", inputs, expanded, 1))
        parts.append(conv_norm(f"{name}.{len(parts)}", 1, expanded, kernel))
        if squeezed:
            gate = f"{name}.{len(parts)}.conc_se_layers.0"
            parts.append(linear(f"{gate}.fc1", expanded, squeezed) | linear(f"{gate}.fc2", squeezed, expanded))
        parts.append(conv_norm(f"{name}.{len(parts)}", expanded, outputs, 1))
        for part in parts:
            shapes |= part
    shapes |= conv_norm("features.16", 160, 960, 1)
    return shapes | linear("classifier.2", 960, 1280) | linear("classifier.5", 1280, 527)


def passt_shapes(width: int = 768, depth: int = 12, rows: int = 12, columns: int = 99, classes: int = 527) -> Shapes:
    shapes: Shapes = {
        "cls_token": (1, 1, width),
        "dist_token": (1, 1, width),
        "new_pos_embed": (1, 2, width),
        "freq_new_pos_embed": (1, width, rows, 1),
        "time_new_pos_embed": (1, width, 1, columns),
        "patch_embed.proj.weight": (width, 1, 16, 16),
        "patch_embed.proj.bias": (width,),
    }
    for block in range(depth):
        name = f"blocks.{block}"
        shapes |= layer_norm(f"{name}.norm1", width) | linear(f"{name}.attn.qkv", width, 3 * width)
        shapes |= linear(f"{name}.attn.proj", width, width) | layer_norm(f"{name}.norm2", width)
        shapes |= linear(f"{name}.mlp.fc1", width, 4 * width) | linear(f"{name}.mlp.fc2", 4 * width, width)
    shapes |= layer_norm("norm", width) | layer_norm("head.0", width) | linear("head.1", width, classes)
    return shapes | linear("head_dist", width, classes)


def hts_at_shapes(width: int = 96, heads: tuple[int, ...] = (4, 8, 16, 32), classes: int = 527) -> Shapes:
    shapes: Shapes = {
        "spectrogram_extractor.stft.conv_real.weight": (513, 1, 1024),
        "spectrogram_extractor.stft.conv_imag.weight": (513, 1, 1024),
        "logmel_extractor.melW": (513, 64),
        "patch_embed.proj.weight": (width, 1, 4, 4),
        "patch_embed.proj.bias": (width,),
    }
    shapes |= batch_norm("bn0", 64) | layer_norm("patch_embed.norm", width)
    for stage, (depth, windows) in enumerate(zip((2, 2, 6, 2), (64, 16, 4, 1), strict=True)):
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            shapes |= layer_norm(f"{name}.norm1", width) | layer_norm(f"{name}.norm2", width)
            shapes[f"{name}.attn.relative_position_bias_table"] = (225, heads[stage])
            shapes[f"{name}.attn.relative_position_index"] = (64, 64)
            if block % 2 and windows > 1:
                shapes[f"{name}.attn_mask"] = (windows, 64, 64)
            shapes |= linear(f"{name}.attn.qkv", width, 3 * width) | linear(f"{name}.attn.proj", width, width)
            shapes |= linear(f"{name}.mlp.fc1", width, 4 * width) | linear(f"{name}.mlp.fc2", 4 * width, width)
        if stage < 3:
            shapes[f"layers.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
            shapes |= layer_norm(f"layers.{stage}.downsample.norm", 4 * width)
            width *= 2
    shapes |= layer_norm("norm", width) | linear("head", classes, classes)
    return shapes | {"tscam_conv.weight": (classes, width, 2, 3), "tscam_conv.bias": (classes,)}


def random_state(shapes: Shapes, gain: float = 1.5) -> State:
    """Numbers that about keep the size of what goes through the network, and tell every tensor from its neighbours."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("relative_position_index"):
            state[name] = relative_positions(8)
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000)
        elif name.endswith("running_var"):
            state[name] = 1 + 0.1 * noise.abs()
        elif name.endswith("melW"):
            state[name] = 0.01 * noise.abs()
        elif "token" in name or "pos_embed" in name or "bias_table" in name or "stft" in name:
            state[name] = 0.5 * noise
        elif len(shape) < 2:
            state[name] = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
        else:
            state[name] = noise * (gain / noise[0].numel()) ** 0.5
    return state


def relative_positions(side: int) -> Tensor:
    """Row of the table of biases for each pair of tokens of a window."""
    places = [(row, column) for row in range(side) for column in range(side)]
    span = 2 * side - 1
    rows = [[(r - s + side - 1) * span + c - d + side - 1 for s, d in places] for r, c in places]
    return torch.tensor(rows)


def clips(num_samples: int) -> Tensor:
    """Noise, and a soft one that begins late and growls."""
    noise_BT = 0.1 * torch.randn(2, num_samples, generator=torch.Generator().manual_seed(3))
    noise_BT[1] = noise_BT[1].cumsum(0) / 50
    noise_BT[1, : num_samples // 3] = 0
    return noise_BT


def normalised(x: Tensor, state: State, name: str, epsilon: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], epsilon)


def projected(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def slow_batch_norm(x: Tensor, state: State, name: str, epsilon: float) -> Tensor:
    shape = [1, -1] + [1] * (x.dim() - 2)
    parts = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (state[f"{name}.{part}"].reshape(shape) for part in parts)
    return (x - mean) / torch.sqrt(variance + epsilon) * weight + bias


def slow_mobilenet(state: State, spectrogram_BNF: Tensor) -> tuple[Tensor, Tensor]:
    """Embedding and logits of mn10 in evaluation, written from its description."""

    def conv_norm(x: Tensor, name: str, stride: int = 1, *, by_channel: bool = False) -> Tensor:
        weight = state[f"{name}.0.weight"]
        groups = len(weight) if by_channel else 1
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        return slow_batch_norm(x, state, f"{name}.1", 0.001)

    def hard_swish(x: Tensor) -> Tensor:
        return x * torch.clamp(x + 3, 0, 6) / 6

    x = hard_swish(conv_norm(spectrogram_BNF.transpose(1, 2)[:, None], "features.0", 2))
    for number, (_, inputs, expanded, outputs, squeezed, stride, swish) in enumerate(MN10_BLOCKS, start=1):
        activation = hard_swish if swish else torch.relu
        before, name, part = x, f"features.{number}.block", 0
        if expanded != inputs:
            x, part = activation(conv_norm(x, f"{name}.0")), 1
        x = activation(conv_norm(x, f"{name}.{part}", stride, by_channel=True))
        if squeezed:
            part += 1
            gate = f"{name}.{part}.conc_se_layers.0"
            hidden = torch.relu(projected(x.mean(dim=(2, 3)), state, f"{gate}.fc1"))
            x = x * torch.sigmoid(projected(hidden, state, f"{gate}.fc2"))[:, :, None, None]
        x = conv_norm(x, f"{name}.{part + 1}")
        if stride == 1 and inputs == outputs:
            x = x + before
    embedding_BW = hard_swish(conv_norm(x, "features.16")).mean(dim=(2, 3))
    hidden = hard_swish(projected(embedding_BW, state, "classifier.2"))
    return embedding_BW, projected(hidden, state, "classifier.5")


def slow_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    """One clip or window, head by head; `bias` is (heads, L, L) or nothing."""
    mixed = []
    for head, (q, k, v) in enumerate(zip(*(x.chunk(heads, dim=-1) for x in (query, key, value)), strict=True)):
        scores = q @ k.T / q.shape[-1] ** 0.5 + (bias[head] if isinstance(bias, Tensor) else bias)
        mixed.append(scores.softmax(dim=-1) @ v)
    return torch.cat(mixed, dim=-1)


def slow_passt(state: State, spectrogram_NF: Tensor, heads: int, stride: int = 10) -> tuple[Tensor, Tensor]:
    """Embedding and logits of one clip in evaluation: patch by patch, head by head."""
    weight, bias = state["patch_embed.proj.weight"].flatten(1), state["patch_embed.proj.bias"]
    mel_FN = spectrogram_NF.T
    tokens = [state[name][0, 0] + state["new_pos_embed"][0, i] for i, name in enumerate(("cls_token", "dist_token"))]
    for row in range((mel_FN.shape[0] - 16) // stride + 1):
        for column in range((mel_FN.shape[1] - 16) // stride + 1):
            patch = mel_FN[row * stride : row * stride + 16, column * stride : column * stride + 16]
            position = state["freq_new_pos_embed"][0, :, row, 0] + state["time_new_pos_embed"][0, :, 0, column]
            tokens.append(weight @ patch.flatten() + bias + position)
    x_LW = torch.stack(tokens)
    for block in range(sum(name.endswith("attn.qkv.bias") for name in state)):
        name = f"blocks.{block}"
        query, key, value = projected(normalised(x_LW, state, f"{name}.norm1", 1e-6), state, f"{name}.attn.qkv").chunk(
            3, dim=-1
        )
        x_LW = x_LW + projected(slow_attention(query, key, value, heads), state, f"{name}.attn.proj")
        hidden = F.gelu(projected(normalised(x_LW, state, f"{name}.norm2", 1e-6), state, f"{name}.mlp.fc1"))
        x_LW = x_LW + projected(hidden, state, f"{name}.mlp.fc2")
    x_LW = normalised(x_LW, state, "norm", 1e-6)
    embedding_W = (x_LW[0] + x_LW[1]) / 2
    return embedding_W, projected(normalised(embedding_W, state, "head.0", 1e-5), state, "head.1")


def slow_hts_at(state: State, waveform_BT: Tensor, heads: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Embedding and logits in evaluation, window by window; the waveform gives 513 to 1024 frames."""
    padded = F.pad(waveform_BT[:, None], (512, 512), mode="reflect")
    parts = [
        F.conv1d(padded, state[f"spectrogram_extractor.stft.conv_{part}.weight"], stride=320)
        for part in ("real", "imag")
    ]
    power_BNW = (parts[0] ** 2 + parts[1] ** 2).transpose(1, 2)
    logmel_BNF = 10 * torch.log10(torch.clamp(power_BNW @ state["logmel_extractor.melW"], min=1e-10))
    logmel_BNF = slow_batch_norm(logmel_BNF.transpose(1, 2), state, "bn0", 1e-5).transpose(1, 2)
    assert 512 < logmel_BNF.shape[1] <= 1024
    long_B1NF = F.interpolate(logmel_BNF[:, None], (1024, 64), mode="bicubic", align_corners=True)
    # Four spans of 256 frames above each other, each 64 mels high.
    image = torch.cat([span.transpose(2, 3) for span in long_B1NF.split(256, dim=2)], dim=2)
    x = F.conv2d(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4)
    x_BYXW = normalised(x.permute(0, 2, 3, 1), state, "patch_embed.norm", 1e-5)
    for stage, depth in enumerate((2, 2, 6, 2)):
        for block in range(depth):
            x_BYXW = slow_swin_block(
                state, x_BYXW, f"layers.{stage}.blocks.{block}", heads[stage], shifted=block % 2 > 0
            )
        if stage < 3:
            name = f"layers.{stage}.downsample"
            quarters = [x_BYXW[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
            merged = normalised(torch.cat(quarters, dim=-1), state, f"{name}.norm", 1e-5)
            x_BYXW = merged @ state[f"{name}.reduction.weight"].T
    x_BYXW = normalised(x_BYXW, state, "norm", 1e-5)
    embedding_BW = x_BYXW.mean(dim=(1, 2))
    # The four spans side by side again: 2 rows of frequency, 32 columns of time.
    map_BWFN = torch.cat(x_BYXW.split(2, dim=1), dim=2).permute(0, 3, 1, 2)
    columns = F.conv2d(map_BWFN, state["tscam_conv.weight"], state["tscam_conv.bias"], padding=(0, 1))
    return embedding_BW, columns.mean(dim=(2, 3))


def slow_swin_block(state: State, x_BYXW: Tensor, name: str, heads: int, *, shifted: bool) -> Tensor:
    """Attention within windows of 8 x 8; a shifted one wraps around, and what was not adjacent does not attend."""
    side = x_BYXW.shape[1]
    shift = 4 if shifted and side > 8 else 0
    table = state[f"{name}.attn.relative_position_bias_table"]
    bias = table[relative_positions(8)].permute(2, 0, 1)
    y = torch.roll(normalised(x_BYXW, state, f"{name}.norm1", 1e-5), (-shift, -shift), (1, 2))
    region = torch.arange(side).ge(side - 8).int() + torch.arange(side).ge(side - shift).int() if shift else None
    out = torch.empty_like(y)
    for top in range(0, side, 8):
        for left in range(0, side, 8):
            mask = torch.zeros(64, 64)
            if region is not None:
                place = (region[top : top + 8, None] * 3 + region[None, left : left + 8]).flatten()
                mask = torch.where(place[:, None] == place[None], 0.0, -100.0)
            for clip in range(len(y)):
                window = y[clip, top : top + 8, left : left + 8].reshape(64, -1)
                query, key, value = projected(window, state, f"{name}.attn.qkv").chunk(3, dim=-1)
                mixed = slow_attention(query, key, value, heads, bias + mask)
                mixed = projected(mixed, state, f"{name}.attn.proj")
                out[clip, top : top + 8, left : left + 8] = mixed.reshape(8, 8, -1)
    x_BYXW = x_BYXW + torch.roll(out, (shift, shift), (1, 2))
    hidden = F.gelu(projected(normalised(x_BYXW, state, f"{name}.norm2", 1e-5), state, f"{name}.mlp.fc1"))
    return x_BYXW + projected(hidden, state, f"{name}.mlp.fc2")


def assert_gives(encoder: WaveformEncoder, waveform_BT: Tensor, embedding_BW: Tensor, logits_BK: Tensor) -> None:
    with torch.no_grad():
        encoded = encoder(waveform_BT)
        logits = encoder.class_logits(encoded)
    assert not encoder.training
    for found, expected in ((encoded.embedding_BW, embedding_BW), (logits, logits_BK)):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        # Most of an embedding is the same for all clips of a random network: what tells them apart must agree too.
        between, spread = found[0] - found[1], expected[0] - expected[1]
        assert spread.std() > 0.005 * expected.std(), "the clips must differ"
        torch.testing.assert_close(between, spread, rtol=0.02, atol=0.02 * float(spread.std()))


def test_an_efficientat_checkpoint_gives_its_embedding_and_classes(tmp_path: Path):
    state, waveform_BT = random_state(mn10_shapes(), gain=5.0), clips(40_000)
    torch.save(state, tmp_path / "mn10_as_mAP_471.pt")
    encoder = load_encoder(EncoderSource(kind="efficientat", location=str(tmp_path / "mn10_as_mAP_471.pt")))
    assert (encoder.sample_rate, encoder.crop_samples, encoder.embedding_width) == (32_000, 320_000, 960)
    with torch.no_grad():
        assert_gives(encoder, waveform_BT, *slow_mobilenet(state, encoder.spectrogram(waveform_BT)))
    parameters = sum(state[name].numel() for name, _ in encoder.network.named_parameters())
    assert round(parameters / 1e6, 2) == 4.88


def test_a_passt_checkpoint_gives_its_embedding_and_classes(tmp_path: Path):
    """At full size, on 1.5 s."""
    state, waveform_BT = random_state(passt_shapes()), clips(48_000)
    assert len(state) == 159
    torch.save(state, tmp_path / "passt-s-f128-p16-s10-ap.476-swa.pt")
    encoder = load_encoder(EncoderSource(kind="passt", location=str(tmp_path / "passt-s-f128-p16-s10-ap.476-swa.pt")))
    assert (encoder.sample_rate, encoder.crop_samples, encoder.embedding_width) == (32_000, 320_000, 768)
    with torch.no_grad():
        rows = [slow_passt(state, clip_NF, heads=12) for clip_NF in encoder.spectrogram(waveform_BT)]
    assert_gives(encoder, waveform_BT, *(torch.stack(parts) for parts in zip(*rows, strict=True)))


def test_a_passt_of_another_stride_is_read_with_its_numbers(tmp_path: Path):
    state = random_state(passt_shapes(width=16, depth=2, rows=8, columns=62))
    torch.save(state, tmp_path / "x.pt")
    design = encoder_design("passt_s", width=16, depth=2, num_heads=2, stride=16)
    encoder, waveform_BT = load_passt(str(tmp_path / "x.pt"), design=design), clips(320_000)
    with torch.no_grad():
        rows = [slow_passt(state, clip, heads=2, stride=16) for clip in encoder.spectrogram(waveform_BT)]
    assert_gives(encoder, waveform_BT, *(torch.stack(parts) for parts in zip(*rows, strict=True)))
    with pytest.raises(DataError, match="freq_new_pos_embed"):
        load_passt(str(tmp_path / "x.pt"), design=encoder_design("passt_s", width=16, depth=2, num_heads=2))


def test_an_hts_at_checkpoint_gives_its_embedding_and_classes(tmp_path: Path):
    """At full size, as Lightning saves it; its kernels are no Fourier transform, so a computed one would show."""
    state, waveform_BT = random_state(hts_at_shapes()), clips(320_000)
    state["bn0.running_mean"] += 20  # dB
    state["bn0.running_var"] *= 20
    content = {"epoch": 5, "global_step": 9, "state_dict": {f"sed_model.{name}": t for name, t in state.items()}}
    torch.save(content | {"lr_schedulers": [], "callbacks": {}}, tmp_path / "HTSAT_AudioSet_Saved_1.ckpt")
    encoder = load_encoder(EncoderSource(kind="hts_at", location=str(tmp_path / "HTSAT_AudioSet_Saved_1.ckpt")))
    assert (encoder.sample_rate, encoder.crop_samples, encoder.embedding_width) == (32_000, 320_000, 768)
    with torch.no_grad():
        assert_gives(encoder, waveform_BT, *slow_hts_at(state, waveform_BT, heads=(4, 8, 16, 32)))
    statistics = ("running_mean", "running_var", "tracked", "attn_mask", "_index")
    assert sum(t.numel() for n, t in state.items() if not n.endswith(statistics)) == pytest.approx(31.3e6, rel=0.01)


SMALL_HEADS = (1, 2, 4, 8)
SMALL = {
    "passt": (
        load_passt,
        passt_shapes(width=16, depth=2),
        encoder_design("passt_s", width=16, depth=2, num_heads=2),
    ),
    "hts_at": (
        load_hts_at,
        hts_at_shapes(width=8, heads=SMALL_HEADS),
        encoder_design("hts_at", patch_width=8, num_heads=SMALL_HEADS),
    ),
    "efficientat": (load_efficientat, mn10_shapes(), WAVEFORM_ENCODERS["mn10"]),
}


def saved(kind: str, state: State, folder: Path) -> str:
    file = folder / "checkpoint.pt"
    prefix = "sed_model." if kind == "hts_at" else ""
    content = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({"state_dict": content} if kind == "hts_at" else content, file)
    return str(file)


@pytest.mark.parametrize("kind", SMALL)
def test_weights_that_do_not_fit_are_refused_by_name(kind: str, tmp_path: Path):
    load, shapes, design = SMALL[kind]
    state = random_state(shapes)
    some = list(shapes)[:: len(shapes) // 5]
    for name in [*some, *(name for name in shapes if name.startswith(("head", "tscam")) and name.endswith("bias"))]:
        without = {other: tensor for other, tensor in state.items() if other != name}
        with pytest.raises(DataError, match=r"weights do not fit: missing \["):
            load(saved(kind, without, tmp_path), design=design)
    with pytest.raises(DataError, match=r"missing \[\], left over \['.*more.weight'\]"):
        load(saved(kind, state | {"more.weight": torch.zeros(2)}, tmp_path), design=design)
    first = next(name for name, shape in shapes.items() if len(shape) == 4 and name.endswith("weight"))
    with pytest.raises(DataError, match=r"of another shape \['.*(proj|features.0.0).weight \(3,\) instead of"):
        load(saved(kind, state | {first: torch.zeros(3)}, tmp_path), design=design)


@pytest.mark.parametrize("kind", SMALL)
def test_the_classifier_can_stay_behind(kind: str, tmp_path: Path):
    load, shapes, design = SMALL[kind]
    file = saved(kind, random_state(shapes), tmp_path)
    whole, bare = load(file, design=design), load(file, design=design, with_classes=False)
    extra = {name.split(".")[1] for name in whole.state_dict().keys() - bare.state_dict().keys()}
    assert extra in ({"head"}, {"tscam_conv"}, {"classifier"})
    waveform_BT = clips(200_000)
    with torch.no_grad():
        assert torch.equal(whole(waveform_BT).embedding_BW, bare(waveform_BT).embedding_BW)


@pytest.mark.parametrize("kind", SMALL)
def test_a_design_of_another_family_is_refused(kind: str):
    load, _, _ = SMALL[kind]
    with pytest.raises(ConfigError, match=r"encoder.location: .* not Cnn14Settings"):
        load("x.pt", design=WAVEFORM_ENCODERS["cnn14"])


def test_an_average_of_hts_at_checkpoints_holds_floats_for_whole_numbers(tmp_path: Path):
    load, shapes, design = SMALL["hts_at"]
    state = random_state(shapes)
    floats = {name: tensor.float() for name, tensor in state.items()}
    plain, averaged = (load(saved("hts_at", s, tmp_path), design=design) for s in (state, floats))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, averaged.state_dict()[name]), name
        assert tensor.dtype == averaged.state_dict()[name].dtype


def test_hts_at_names_without_their_prefix_are_refused(tmp_path: Path):
    _, shapes, design = SMALL["hts_at"]
    torch.save({"state_dict": random_state(shapes)}, tmp_path / "x.ckpt")
    with pytest.raises(DataError, match=r"expected names sed_model\.\*, found \['bn0\.bias'"):
        load_hts_at(str(tmp_path / "x.ckpt"), design=design)


def test_a_file_that_is_not_there_names_its_setting():
    with pytest.raises(ConfigError, match=r"encoder.location: no file nothing\.pt"):
        load_encoder(EncoderSource(kind="efficientat", location="nothing.pt"))
