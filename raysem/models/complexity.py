"""How large an encoder is and what a clip costs, beside what its authors say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from raysem.models.registry import build_front_end, build_network, encoder_design

NUM_CLASSES = 527


@dataclass(frozen=True)
class Complexity:
    """Of a network with the classifier of AudioSet, on one clip of the length it was trained on; no front end."""

    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Published:
    """What was said about an encoder, and what the number counts beyond ours."""

    parameters: float
    multiply_adds: float | None
    about: str


_EFFICIENTAT = "README of fschmid56/EfficientAT"
PUBLISHED: dict[str, Published] = {
    "cnn14": Published(
        80_753_615,
        21.11e9,
        "PANNs' table; half of its 42.220e9, for its script counts multiplications and additions apart. With the STFT "
        "as a convolution (1.05e9), batch norms and ReLUs",
    ),
    "mn04": Published(0.983e6, 0.11e9, _EFFICIENTAT),
    "mn05": Published(1.43e6, 0.16e9, _EFFICIENTAT),
    "mn10": Published(4.88e6, 0.54e9, _EFFICIENTAT),
    "mn20": Published(17.91e6, 2.06e9, _EFFICIENTAT),
    "mn30": Published(39.09e6, 4.55e9, _EFFICIENTAT),
    "mn40": Published(68.43e6, 8.03e9, _EFFICIENTAT),
    "ast": Published(87e6, None, "as the HTS-AT paper compares; multiply-adds not given by the authors"),
    "hts_at": Published(
        31e6,
        None,
        "the paper; with the unused `head` (0.28e6) and the STFT and mel matrix of the file (1.08e6). Multiply-adds "
        "not given by the authors",
    ),
    "passt_s": Published(
        86e6,
        None,
        "a vision transformer of base size, by which later papers name it; with the unused `head_dist` (0.41e6) of the "
        "file. Multiply-adds not given by the authors",
    ),
}


def complexity(name: str) -> Complexity:
    """Counted on tensors without content: nothing is computed, and a large network costs no memory."""
    design = encoder_design(name, num_classes=NUM_CLASSES)
    num_samples = round(design.crop_seconds * design.front_end.sample_rate)
    spectrogram = build_front_end(design.front_end).eval()(torch.zeros(1, num_samples))
    with torch.device("meta"):
        network = build_network(design.network).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.class_logits(network.encode(spectrogram.to("meta")))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Complexity(parameters, counter.get_total_flops() // 2)
