"""The audio encoders: parameters and multiply-adds beside the published ones; on a GPU also speed and memory.

    python -m benchmarks.encoders [--only passt_s] [--device cuda] [--batch 32] [--steps 20] [--quick] [--json FILE]

Parameters are those of the network with the classifier of AudioSet, multiply-adds those of one clip without the front
end; both are counted on tensors without content. Where a number counts more than ours, the last lines say so.
On a GPU, or with `--device cpu`, each encoder also runs forward and backward on waveforms of its clip length, its
front end in float32 and its network under autocast to bfloat16 on a GPU, patchout and dropout as in training.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch

from benchmarks.rows import Row, finish, parser_of
from raysem.models.complexity import NUM_CLASSES, PUBLISHED, complexity
from raysem.models.encoder import WaveformEncoder
from raysem.models.registry import build_waveform_encoder

# Shapes: B clips, T samples.

WARM_UP_STEPS = 3


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Counts, where asked measures, prints one line per encoder, and returns the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--only", action="append", choices=tuple(PUBLISHED), help="this encoder; may be repeated")
    parser.add_argument("--device", help="also measure there (default: cuda where there is one)")
    parser.add_argument("--batch", type=int, default=32, help="clips of a batch")
    parser.add_argument("--steps", type=int, default=20, help="batches that are timed")
    options = parser.parse_args(argv)
    if options.device is None and torch.cuda.is_available() and not options.quick:
        options.device = "cuda"
    rows = finish(measure(options), options)
    for row in rows:
        print(f"  {row['name']}: {PUBLISHED[row['name']].about}")
    return rows


def measure(options: argparse.Namespace) -> list[Row]:
    """One row per encoder; the ratio is ours over the published number of parameters."""
    torch.set_num_threads(options.threads or 1)
    setting = f"with {NUM_CLASSES} classes; ratio: parameters over the published ones"
    if options.device:
        about = torch.cuda.get_device_name() if options.device == "cuda" else options.device
        setting += f"; forward and backward of {options.batch} clips on {about}"
    rows = []
    for name in options.only or PUBLISHED:
        ours, published = complexity(name), PUBLISHED[name]
        row: Row = {
            "benchmark": "encoders",
            "setting": setting,
            "name": name,
            "ratio": ours.parameters / published.parameters,
            "parameters_millions": round(ours.parameters / 1e6, 3),
            "published_parameters_millions": published.parameters / 1e6,
            "multiply_adds_billions": round(ours.multiply_adds / 1e9, 3),
        }
        if published.multiply_adds is not None:
            row["published_multiply_adds_billions"] = published.multiply_adds / 1e9
        if options.device:
            row |= speed(name, torch.device(options.device), batch=options.batch, steps=options.steps)
        rows.append(row)
    return rows


def speed(name: str, device: torch.device, *, batch: int, steps: int) -> Row:
    """Clips per second of forward and backward, and on a GPU the peak of its memory in GiB."""
    torch.manual_seed(0)
    encoder = build_waveform_encoder(name, num_classes=NUM_CLASSES).to(device).train()
    waveform_BT = 0.1 * torch.randn(batch, encoder.crop_samples, device=device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    for step in range(WARM_UP_STEPS + steps):
        if step == WARM_UP_STEPS:
            _wait(device)
            began = time.perf_counter()
        _forward_backward(encoder, waveform_BT)
    _wait(device)
    found: Row = {"clips_per_second": steps * batch / (time.perf_counter() - began)}
    return found | ({"peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30} if on_gpu else {})


def _forward_backward(encoder: WaveformEncoder, waveform_BT: torch.Tensor) -> None:
    encoder.zero_grad(set_to_none=True)
    with torch.autocast(waveform_BT.device.type, torch.bfloat16, enabled=waveform_BT.is_cuda):
        logits_BK = encoder.class_logits(encoder(waveform_BT))
    target_BK = torch.zeros_like(logits_BK, dtype=torch.float32)
    torch.nn.functional.binary_cross_entropy_with_logits(logits_BK.float(), target_BK).backward()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(sys.argv[1:])
