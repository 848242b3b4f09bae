"""Steps of `raysem.training` against a bare torch loop with the same model, batch, loss and optimizer.

    python -m benchmarks.training [--steps 24] [--batch 32] [--quick] [--json FILE]

Ours is `train_in_process` on clips that are all in its cache after one epoch, so it loads, crops, logs, checks and
counts, and decodes no more. The bare loop has one batch of waveforms and text features at hand, and does what changes
the weights: forward, symmetric contrastive loss, backward, clipping of the gradient, Adam. Both are timed over the
second half of their steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import torch
from torch import nn

from benchmarks.material import WORDS, quickstart_model, write_pool
from benchmarks.rows import Row, cores, finish, in_turns, parser_of
from raysem import storage
from raysem.losses.contrastive import symmetric_contrastive_loss
from raysem.models.clap import ClapSettings
from raysem.models.start import build_clap
from raysem.training.optimizer import build_optimizer
from raysem.training.settings import TrainingSettings
from raysem.training.spec import TrainingSpec, train_in_process

# Shapes: B clips, T samples, W width of the text encoder, D embedding width.

STEPS_PER_WINDOW = 2


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures, prints one line per loop, and returns the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, help="steps of each run (default: 24)")
    parser.add_argument("--batch", type=int, help="clips of a batch (default: 32)")
    parser.add_argument("--rounds", type=int, help="turns of both loops (default: 3)")
    options = parser.parse_args(argv)
    steps, batch, rounds = (4, 4, 1) if options.quick else (24, 32, 3)
    options.steps, options.batch = options.steps or steps, options.batch or batch
    options.rounds, options.threads = options.rounds or rounds, options.threads or cores()
    return finish(measure(options), options)


def measure(options: argparse.Namespace) -> list[Row]:
    """One row per loop: steps per second, and its share of the bare one's."""
    with tempfile.TemporaryDirectory(prefix="raysem-benchmark-") as folder:
        model = quickstart_model(Path(folder) / "text")
        rate = model.log_mel.sample_rate
        clips = write_pool(
            Path(folder) / "clips",
            2 * options.batch,
            clips_per_shard=2 * options.batch,
            format="wav16",
            seconds=1.25 * model.crop_seconds,
            sample_rate=rate,
        )
        settings = TrainingSettings(
            steps=options.steps,
            batch_size=options.batch,
            keep="last",
            checkpoint_every_steps=options.steps + 1,
            log_every_steps=STEPS_PER_WINDOW,
            tensorboard=False,
            torch_threads=options.threads,
        )
        outputs = (str(Path(folder) / f"run_{number}") for number in count())
        rates = in_turns(
            {
                "bare loop": lambda: bare_rate(model, settings),
                "train_in_process": lambda: our_rate(
                    TrainingSpec(
                        output=next(outputs), sources=tuple(clips), held_out=(), model=model, training=settings
                    )
                ),
            },
            options.rounds,
        )
    about = (
        f"cnn14_tiny, {options.batch} clips of {model.crop_seconds:g} s at {rate} Hz a step, {options.threads} threads"
        "; ratio: this loop over the bare one, in steps/s"
    )
    return [
        {
            "benchmark": "training",
            "setting": about,
            "name": name,
            "ratio": steps_per_second / rates["bare loop"],
            "steps_per_second": steps_per_second,
        }
        for name, steps_per_second in rates.items()
    ]


def our_rate(spec: TrainingSpec) -> float:
    """Steps per second by the run's own metrics."""
    train_in_process(spec, device="cpu")
    lines = storage.read_bytes(storage.join(spec.output, "metrics.jsonl")).decode().splitlines()
    records = [json.loads(line) for line in lines]
    rates = [record["clips_per_second"] / spec.training.batch_size for record in records if record["kind"] == "train"]
    return len(rates[len(rates) // 2 :]) / sum(1 / rate for rate in rates[len(rates) // 2 :])


def bare_rate(settings: ClapSettings, training: TrainingSettings) -> float:
    """Steps per second of a plain loop over one batch."""
    torch.set_num_threads(training.torch_threads or 1)
    model = build_clap(settings, seed=0)
    texts = [f"{first} {second}" for first in WORDS for second in WORDS][: training.batch_size]
    text_BW = torch.from_numpy(model.text_features(texts))
    waveform_BT = 0.1 * torch.randn(len(texts), settings.crop_samples, generator=torch.Generator().manual_seed(0))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(model, training)
    model.train()
    began = time.perf_counter()
    for step in range(training.steps):
        if step == training.steps // 2:
            began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        audio_BD, text_BD = model.encode_audio(waveform_BT), model.encode_text_features(text_BW)
        symmetric_contrastive_loss(audio_BD, text_BD, model.scale()).backward()
        nn.utils.clip_grad_norm_(trained, training.gradient_clip or float("inf"))
        optimizer.step()
    return (training.steps - training.steps // 2) / (time.perf_counter() - began)


if __name__ == "__main__":
    main(sys.argv[1:])
