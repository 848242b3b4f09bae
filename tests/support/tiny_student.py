"""A CLAP of a few kilobytes on 24 clips of a second: training it takes no time beside starting its processes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from raysem import tables
from raysem.audio.logmel import LogMelSettings
from raysem.models.clap import ClapSettings
from raysem.text.encoder import TextEncoderSettings
from raysem.training.settings import TrainingSettings

SAMPLE_RATE = 16_000


def spec_settings(folder: Path, text_encoder: Path) -> dict[str, Any]:
    """A `TrainingSpec` without its output; the clips are written to `folder`."""
    return {
        "sources": (write_pairs(folder / "main.parquet", 24, 0),),
        "held_out": (write_pairs(folder / "held_out.parquet", 8, 1),),
        "seed": 3,
        "model": ClapSettings(
            audio_encoder="cnn14_tiny",
            audio_channels=(4, 4, 4, 8, 16, 32),
            embedding_dropout=0.1,
            log_mel=LogMelSettings(sample_rate=SAMPLE_RATE, max_hz=8000.0),
            crop_seconds=0.8,
            embedding_width=16,
            text=TextEncoderSettings(name=str(text_encoder), max_tokens=16),
        ),
        "training": TrainingSettings(
            steps=6, batch_size=8, learning_rate=1e-3, evaluate_every_steps=3, checkpoint_every_steps=2,
            log_every_steps=1, torch_threads=1, tensorboard=False,
        ),
    }  # fmt: skip


def write_pairs(path: Path, num_clips: int, seed: int) -> str:
    """Clips of one second, four kinds of them, each with a caption of its kind."""
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(num_clips):
        time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
        samples = np.sin(2 * np.pi * 200 * (1 + i % 4) * time) + 0.1 * generator.standard_normal(len(time))
        buffer = io.BytesIO()
        soundfile.write(buffer, 0.4 * samples, SAMPLE_RATE, format="WAV")
        captions = [f"a {('dog', 'cat', 'rain', 'siren')[i % 4]} sounds loud"]
        rows.append({"clip_id": f"{path.stem}-{i:03d}", "audio": {"bytes": buffer.getvalue()}, "captions": captions})
    pq.write_table(tables.conform(pa.Table.from_pylist(rows), tables.CLIPS, str(path)), path)
    return str(path)
