"""Clips made by arithmetic and models with random weights: what the benchmarks work on, the same on every machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import BertConfig, BertModel

from raysem.audio.logmel import LogMelSettings
from raysem.corpora.encoding import encode
from raysem.corpora.shards import write_shards
from raysem.models.clap import ClapSettings
from raysem.tables import CLIPS
from raysem.text.encoder import TextEncoderSettings, quiet_transformers

# Shapes: T samples, C channels.

DISTINCT_CLIPS = 8
"""Clips that differ in a pool; the others are copies under another name."""
WORDS = ("a", "dog", "barks", "rain", "falls", "siren", "wails", "far", "near", "loud")


def waveform(index: int, *, seconds: float, sample_rate: int, channels: int) -> np.ndarray:
    """Clip number `index` as (T, C): a swelling tone with its octave over noise, each channel a little later."""
    rng = np.random.default_rng(index)
    time_T = np.arange(round(seconds * sample_rate)) / sample_rate
    pitch_hz, swell_hz = rng.uniform(150, min(3000, sample_rate / 5)), rng.uniform(0.5, 4)
    made = []
    for channel in range(channels):
        later_T = time_T + 0.001 * channel
        tone_T = np.sin(2 * np.pi * pitch_hz * later_T) + 0.4 * np.sin(4 * np.pi * pitch_hz * later_T)
        noise_T = rng.standard_normal(len(time_T))
        made.append(0.2 * tone_T * (1 + np.sin(2 * np.pi * swell_hz * later_T)) / 2 + 0.01 * noise_T)
    return np.stack(made, axis=1).astype(np.float32)


def files(num_files: int, *, format: str, seconds: float, sample_rate: int, channels: int) -> list[bytes]:
    """The first clips as files of one of the formats of `raysem.corpora.encoding`."""
    return [
        encode(waveform(index, seconds=seconds, sample_rate=sample_rate, channels=channels), sample_rate, format=format)
        for index in range(num_files)
    ]


def write_pool(
    folder: Path,
    num_clips: int,
    *,
    clips_per_shard: int,
    format: str,
    seconds: float,
    sample_rate: int,
    channels: int = 1,
) -> list[str]:
    """Shards of a clips table with the audio bytes inside, each clip with one caption; returns their locations."""
    contents = files(
        min(num_clips, DISTINCT_CLIPS), format=format, seconds=seconds, sample_rate=sample_rate, channels=channels
    )

    def tables() -> Iterator[pa.Table]:
        for start in range(0, num_clips, clips_per_shard):
            rows = [
                {
                    "clip_id": f"clip_{index:07d}",
                    "audio": {"bytes": contents[index % len(contents)], "path": None},
                    "captions": [f"{WORDS[index % len(WORDS)]} {WORDS[index // len(WORDS) % len(WORDS)]}"],
                }
                for index in range(start, min(start + clips_per_shard, num_clips))
            ]
            yield pa.Table.from_pylist(rows, schema=CLIPS)

    return write_shards(tables(), str(folder), rows_per_shard=clips_per_shard).files


def quickstart_model(folder: Path, *, audio_encoder: str = "cnn14_tiny") -> ClapSettings:
    """The model of jobs/recipes/quickstart.yaml, with a text encoder that needs no download."""
    return ClapSettings.model_validate(
        {
            "audio_encoder": audio_encoder,
            "log_mel": LogMelSettings(sample_rate=32_000, hop_samples=640),
            "crop_seconds": 4.0,
            "embedding_width": 256,
            "text": TextEncoderSettings(name=write_text_encoder(folder), max_tokens=30),
        }
    )


def trivial_model(folder: Path) -> ClapSettings:
    """A model that costs next to nothing: crops of 0.2 s at 8 kHz, and a few channels."""
    return ClapSettings(
        audio_encoder="cnn14_tiny",
        audio_channels=(2, 2, 2, 4, 4, 8),
        log_mel=LogMelSettings(
            sample_rate=8000, window_samples=256, hop_samples=40, num_mels=32, min_hz=50, max_hz=4000
        ),
        crop_seconds=0.2,
        embedding_width=16,
        text=TextEncoderSettings(name=write_text_encoder(folder), max_tokens=30),
    )


def write_text_encoder(folder: Path) -> str:
    """A BERT of width 32 with random weights, saved as Hugging Face does; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"bcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with quiet_transformers():
            BertModel(config).save_pretrained(folder)
    return str(folder)
