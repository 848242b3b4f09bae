"""Six classes of AudioSet's graph, a table of short labelled clips, and taggers of a few hundred weights."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from torch import Tensor, nn

from raysem import tables
from raysem.audio.load import AudioSettings
from raysem.models.tagger import Tagger, TaggerSettings, build_tagger
from raysem.ontology.source import OntologySettings, load_classes, load_ontology
from raysem.ontology.tag_classes import TagClasses, tag_classes
from raysem.training.clips import ClipLoader
from raysem.training.settings import TrainingSettings
from raysem.training.table import TrainingTable
from raysem.training.tag_objective import TagObjectiveSettings
from raysem.training.tag_spec import TaggingSpec

# Shapes: B clips, T samples, K classes, D width of the class texts.

SAMPLE_RATE = 8000
NAMES = ("Bark", "Meow", "Siren", "Rain", "Choir", "Thunder")
TEXT_WIDTH = 5
AUDIO = AudioSettings(sample_rate=SAMPLE_RATE, min_duration_seconds=0.01)
SPA = TagObjectiveSettings(bce_weight=1.0, obce_weight=0.5, spa_weight=2.0)


def tiny_classes(names: Sequence[str] = NAMES) -> TagClasses:
    """The classes with distances 4 to 11 and unit vectors in the place of their texts."""
    settings = OntologySettings(file="synthetic", classes=tuple(names))
    ontology = load_ontology(settings)
    text_KD = np.random.default_rng(4).standard_normal((len(names), TEXT_WIDTH)).astype(np.float32)
    text_KD /= np.linalg.norm(text_KD, axis=1, keepdims=True)
    texts = tuple(f"the sound of {name}" for name in names)
    return replace(tag_classes(ontology, load_classes(ontology, settings)), text_KD=text_KD, texts=texts)


def cnn14_settings(*, dropout: float = 0.2, **changes: Any) -> TaggerSettings:
    """Crops of one second at 8 kHz, 51 frames of 32 bands."""
    network = {"channels": (2, 2, 4, 4, 8, 8), "num_mels": 32, "block_dropout": dropout, "embedding_dropout": dropout}
    front_end = {
        "sample_rate": SAMPLE_RATE, "window_samples": 256, "hop_samples": 160, "num_mels": 32, "max_hz": 3900.0,
    }  # fmt: skip
    settings = {"projection": "linear", "crop_seconds": 1.0} | changes
    return TaggerSettings(encoder="cnn14_tiny", front_end=front_end, network=network, **settings)


def ast_settings(**changes: Any) -> TaggerSettings:
    """Crops of one second at 8 kHz as 12 patches, two blocks."""
    numbers = {"num_mels": 32, "num_frames": 100}
    front_end = {"sample_rate": SAMPLE_RATE, "window_samples": 200, "hop_samples": 80, **numbers}
    network = {"width": 8, "depth": 2, "num_heads": 2, "mlp_width": 8, **numbers}
    settings = {"projection": "mlp", "crop_seconds": 1.0} | changes
    return TaggerSettings(encoder="ast_tiny", front_end=front_end, network=network, **settings)


def tiny_tagger(settings: TaggerSettings | None = None, *, seed: int = 0) -> Tagger:
    classes = tiny_classes()
    return build_tagger(settings or cnn14_settings(dropout=0.0), classes.names, classes.ids, TEXT_WIDTH, seed=seed)


@torch.no_grad()
def with_statistics_of(waveform_BT: Tensor, tagger: Tagger) -> Tagger:
    """The tagger with batch norms that have seen these clips: in evaluation mode clips differ."""
    norms = [module for module in tagger.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    tagger.train()(waveform_BT)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return tagger


def labels_of(clip: int) -> list[str]:
    """One class in turns; every fourth clip has another one too."""
    return [NAMES[clip % 6], NAMES[(clip + 2) % 6]] if clip % 4 == 0 else [NAMES[clip % 6]]


def tone_bytes(labels: Sequence[str], seconds: float, seed: int) -> bytes:
    """A tone for each label in noise, with a constant offset."""
    time_T = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    samples_T = 0.02 + 0.05 * np.random.default_rng(seed).standard_normal(len(time_T))
    for name in labels:
        samples_T += 0.2 * np.sin(2 * np.pi * (300 + 500 * NAMES.index(name)) * time_T)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples_T.astype(np.float32), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def write_tagged(
    path: Path, num_clips: int, *, prefix: str = "clip", seconds: float = 0.5, row_group_rows: int = 1000,
    broken: Sequence[int] = (), labels: dict[int, list[str]] | None = None, order: Sequence[int] | None = None,
) -> str:  # fmt: skip
    """A Parquet file of clips of 1 to 2.5 times `seconds`; those in `labels` have other ones than `labels_of` says."""
    rows = []
    for clip in order if order is not None else range(num_clips):
        names = (labels or {}).get(clip, labels_of(clip))
        known = [name for name in names if name in NAMES]
        audio = b"not audio" if clip in broken else tone_bytes(known, seconds * (1 + 0.5 * (clip % 4)), clip)
        rows.append({"clip_id": f"{prefix}-{clip:04d}", "audio": {"bytes": audio, "path": None}, "labels": names})
    path.parent.mkdir(parents=True, exist_ok=True)
    table = tables.conform(pa.Table.from_pylist(rows), tables.CLIPS, str(path))
    pq.write_table(table, path, row_group_size=row_group_rows)
    return str(path)


def tagged_loader(*files: str, memory_mib: int = 64, cache_mib: int = 64) -> ClipLoader:
    found = [
        TrainingTable([file], texts="labels", memory_mib=memory_mib, name=f"set {Path(file).stem}") for file in files
    ]
    return ClipLoader(found, audio=AUDIO, cache_mib=cache_mib)


def write_data(folder: Path, **changes: Any) -> Path:
    """`classes/`, `main.parquet`, `held_out.parquet` and `test.parquet`."""
    tiny_classes().write(str(folder / "classes"))
    write_tagged(folder / "main.parquet", 32, prefix="main", **changes)
    write_tagged(folder / "held_out.parquet", 13, prefix="held")
    write_tagged(folder / "test.parquet", 11, prefix="test", labels={3: [], 4: ["Rain", "Thunder"]})
    return folder


def tiny_training(**changes: Any) -> TrainingSettings:
    defaults: dict[str, Any] = {
        "steps": 8, "batch_size": 8, "learning_rate": 1e-2, "optimizer": "adamw", "weight_decay": 0.01,
        "evaluate_every_steps": 4, "checkpoint_every_steps": 3, "log_every_steps": 2, "tensorboard": False,
        "torch_threads": 1, "selection_metric": "omap",
    }  # fmt: skip
    return TrainingSettings(**(defaults | changes))


def tiny_spec(output: Path | str, data: Path, *, training: dict[str, Any] | None = None, **changes: Any) -> TaggingSpec:
    """A run on `data` as `write_data` leaves it."""
    settings: dict[str, Any] = {
        "output": str(output), "classes": str(data / "classes"), "sources": (str(data / "main.parquet"),),
        "held_out": (str(data / "held_out.parquet"),), "seed": 3, "model": cnn14_settings(), "audio": AUDIO,
        "training": tiny_training(**(training or {})),
    }  # fmt: skip
    return TaggingSpec(**(settings | changes))
