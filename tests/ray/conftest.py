"""One local Ray for all tests of this folder, and a pool of short clips with a teacher of a few kilobytes."""

from __future__ import annotations

import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.audio.logmel import LogMelSettings
from raysem.corpora.rows import caption_id
from raysem.corpora.shards import write_shards
from raysem.curation.ray_stages import EmbedJob, EmbedSettings, WorkerSettings
from raysem.models.checkpoint import save_model
from raysem.models.clap import ClapSettings
from raysem.models.start import build_clap
from raysem.models.teacher import TeacherSource
from raysem.tables import CAPTIONS, CLIPS
from raysem.text.encoder import TextEncoderSettings

SAMPLE_RATE = 8000
FAULTY_SOUNDS = Path(__file__).parent / "faulty_sounds"


@pytest.fixture(scope="session", autouse=True)
def _ray() -> Iterator[None]:
    """Four logical CPUs whatever the machine has: tests are about what is done, not about how fast."""
    import ray
    import ray.data

    from raysem.runs import local_ray

    folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")  # short: a socket's path may have 107 characters
    paths = [str(FAULTY_SOUNDS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))  # of the workers
    local_ray.start(
        num_cpus=4,
        object_store_memory=256 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=folder,
    )
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = 240
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    monkeypatch.undo()
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def wav_bytes(seconds: float, sample_rate: int, seed: int) -> bytes:
    """A tone with its own pitch, tremolo and noise."""
    rng = np.random.default_rng(seed)
    time_T = np.arange(round(seconds * sample_rate)) / sample_rate
    tone_T = np.sin(2 * np.pi * rng.uniform(150, 3000) * time_T) * (1 + np.sin(2 * np.pi * rng.uniform(1, 9) * time_T))
    buffer = io.BytesIO()
    samples_T = 0.2 * tone_T + 0.02 * rng.standard_normal(len(time_T))
    soundfile.write(buffer, samples_T, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


@dataclass(frozen=True)
class Pool:
    """Shards of clips and of captions, and the teacher that embeds them."""

    clips: list[str]
    captions: list[str]
    teacher: TeacherSource
    crop_samples: int
    audio: AudioSettings

    def job(
        self, output: Path, *, workers: WorkerSettings | None = None, clips: list[str] | None = None, **embed: Any
    ) -> EmbedJob:
        """A job on this pool; `embed` are `EmbedSettings`."""
        return EmbedJob(
            model=self.teacher,
            output=str(output),
            workers=workers or WorkerSettings(max_decode_tasks=2),  # each decoding process imports torch
            audio=self.audio,
            crop_samples=self.crop_samples,
            embed=EmbedSettings(**{"clips_per_unit": 8, "num_crops": 3, **embed}),
            metadata={"model": "test"},
        )


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Pool:
    """60 clips of 0.3 to 2.2 s at 8 and 16 kHz in shards of 12, 20 captions; crops have 0.8 s."""
    folder = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    rows = []
    for index in range(60):
        content = wav_bytes(rng.uniform(0.3, 2.2), int(rng.choice([8000, 16000])), index)
        rows.append({"clip_id": f"clip_{index:03d}", "audio": {"bytes": content, "path": None}})
    clips = write_shards([pa.Table.from_pylist(rows, schema=CLIPS)], str(folder / "clips"), rows_per_shard=12)
    words = ("dog", "cat", "rain", "siren", "loud")
    texts = [f"the sound of a {first} in the {second}" for first in words for second in words if first != second]
    captions = [{"caption_id": caption_id(text), "text": text, "source": "test"} for text in texts]
    storage.write_table(str(folder / "captions" / "all.parquet"), pa.Table.from_pylist(captions, schema=CAPTIONS))
    settings = ClapSettings(
        audio_encoder="cnn14_tiny",
        audio_channels=(8, 8, 8, 16, 32, 64),
        log_mel=LogMelSettings(
            sample_rate=SAMPLE_RATE, window_samples=256, hop_samples=160, num_mels=32, max_hz=SAMPLE_RATE / 2
        ),
        crop_seconds=0.8,
        text=TextEncoderSettings(name=str(bert_folder), max_tokens=30),
        embedding_width=32,
    )
    model = build_clap(settings, seed=0)
    # Statistics of batch norm as training leaves them: without, activations are so small that rounding shows.
    waveform_BT = torch.from_numpy(np.random.default_rng(1).normal(0, 0.2, (32, settings.crop_samples))).float()
    with torch.no_grad():
        for _ in range(30):
            model.train().encode_audio(waveform_BT)
    save_model(str(folder / "teacher"), model)
    return Pool(
        clips=clips.files,
        captions=[str(folder / "captions" / "all.parquet")],
        teacher=TeacherSource(kind="raysem", location=str(folder / "teacher")),
        crop_samples=settings.crop_samples,
        audio=AudioSettings(sample_rate=SAMPLE_RATE),
    )
