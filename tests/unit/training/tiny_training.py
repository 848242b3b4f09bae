"""A network of a few hundred weights with the interface of Clap, a table of short clips, and jobs for several ranks."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysem import storage, tables
from raysem.audio.load import AudioSettings
from raysem.training.context import LocalContext
from raysem.training.loop import train
from raysem.training.objective import ContrastiveObjective, Measured, ObjectiveSettings, build_objective
from raysem.training.pair_inputs import PairSources, pair_inputs
from raysem.training.run import TrainingResult, TrainingRun
from raysem.training.settings import TrainingSettings
from raysem.training.table import TrainingTable

SAMPLE_RATE, CROP_SAMPLES, FRAME = 8000, 800, 16
CAPTIONS = ["a dog barks", "rain falls on a roof", "an engine idles", "a bell rings twice", "a siren wails"]


class TinyText(nn.Module):
    """Mean of letter embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(128, 6, padding_idx=0)

    def tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        width = max(map(len, texts))
        return {"input_ids": torch.tensor([[ord(c) % 127 + 1 for c in t] + [0] * (width - len(t)) for t in texts])}

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        present = (tokens["input_ids"] > 0).float()[..., None]
        return (self.letters(tokens["input_ids"]) * present).sum(1) / present.sum(1)


class TinyNetwork(nn.Module):
    """Frame energies, batch normalisation, two layers; a head that no loss reaches, as in Cnn14."""

    sample_rate, crop_samples, embedding_width = SAMPLE_RATE, CROP_SAMPLES, 8

    def __init__(self, *, dropout: float = 0.2, text_trained: bool = False, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.norm = nn.BatchNorm1d(CROP_SAMPLES // FRAME)
        self.hidden = nn.Linear(CROP_SAMPLES // FRAME, 12)
        self.dropout = nn.Dropout(dropout)
        self.audio_projection = nn.Linear(12, 8)
        self.tagging_head = nn.Linear(12, 3)
        self.text_encoder = TinyText().requires_grad_(text_trained)
        self.text_projection = nn.Linear(6, 8)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_audio(self, waveform_BT: Tensor) -> Tensor:
        energy_BN = waveform_BT.unflatten(1, (-1, FRAME)).square().mean(-1).add(1e-6).log()
        return F.normalize(self.audio_projection(self.dropout(torch.tanh(self.hidden(self.norm(energy_BN))))), dim=-1)

    def encode_text(self, tokens: dict[str, Tensor]) -> Tensor:
        return self.encode_text_features(self.text_encoder(tokens))

    def encode_text_features(self, text_BW: Tensor) -> Tensor:
        return F.normalize(self.text_projection(text_BW), dim=-1)

    def scale(self) -> Tensor:
        return self.logit_scale.clamp(max=4.6).exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        self.logit_scale.clamp_(max=4.6)


def write_model(folder: str, model: nn.Module, extra: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    storage.write_bytes(storage.join(folder, "model.pt"), buffer.getvalue())


def wav_bytes(frequency_hz: float, seconds: float, seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    samples = 0.3 * np.sin(2 * np.pi * frequency_hz * time * (1 + time)) + 0.05 * generator.standard_normal(len(time))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.astype(np.float32), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def write_pairs(
    path: Path, num_clips: int, *, prefix: str = "clip", row_group_rows: int = 1000, improvement_set: bool = False,
    broken: tuple[int, ...] = (), paths: dict[int, str] | None = None,
) -> str:  # fmt: skip
    """A Parquet file of clips of 0.05 to 0.25 s with two captions each; those in `paths` lie elsewhere."""
    rows = []
    for i in range(num_clips):
        texts = [f"{CAPTIONS[i % 5]} {i}", f"{CAPTIONS[i % 5]} far away"]
        audio = b"not audio" if i in broken else wav_bytes(100 + 300 * (i % 5), 0.05 + 0.05 * (i % 5), i)
        row: dict[str, Any] = {"clip_id": f"{prefix}-{i:04d}", "audio": {"bytes": audio, "path": None}}
        if paths and i in paths:
            row["audio"] = {"bytes": None, "path": paths[i]}
        row["captions"] = [{"caption_id": t, "text": t, "similarity": 0.5} for t in texts] if improvement_set else texts
        rows.append(row)
    schema = tables.IMPROVEMENT_SET if improvement_set else tables.CLIPS
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(tables.conform(pa.Table.from_pylist(rows), schema, str(path)), path, row_group_size=row_group_rows)
    return str(path)


def tiny_settings(**changes: Any) -> TrainingSettings:
    defaults: dict[str, Any] = {
        "steps": 8, "batch_size": 8, "learning_rate": 1e-2, "evaluate_every_steps": 4, "checkpoint_every_steps": 3,
        "log_every_steps": 2, "tensorboard": False, "torch_threads": 1, "held_out_pairs": 16,
    }  # fmt: skip
    return TrainingSettings(**(defaults | changes))


def run_tiny(
    folder: Path | str,
    *,
    data: Path,
    objective: ObjectiveSettings | None = None,
    settings: TrainingSettings | None = None,
    context: LocalContext | None = None,
    model: TinyNetwork | None = None,
    wrap_objective: Callable[[ContrastiveObjective], Any] = lambda objective: objective,
    memory_mib: int = 64,
    seed: int = 3,
) -> tuple[TinyNetwork, TrainingResult]:
    """A whole run on `data/{main,held_out,replay}.parquet`; with a soft-label weight the teacher is another network."""
    model = model or TinyNetwork()
    objective = objective or ObjectiveSettings()
    device = torch.device("cpu")
    built = build_objective(model, objective, device, load_teacher=lambda: TinyNetwork(seed=9))
    settings, context = settings or tiny_settings(), context or LocalContext()
    replay = TrainingTable([str(data / "replay.parquet")]) if objective.replay_probability else None
    sources = PairSources(
        TrainingTable([str(data / "main.parquet")], memory_mib=memory_mib),
        TrainingTable([str(data / "held_out.parquet")]),
        replay,
        objective.replay_probability,
    )
    run = TrainingRun(
        inputs=pair_inputs(
            sources, built.text_inputs, audio=AudioSettings(sample_rate=SAMPLE_RATE, min_duration_seconds=0.01),
            crop_samples=CROP_SAMPLES, settings=settings, seed=seed, context=context,
        ),
        settings=settings,
        output=str(folder),
        seed=seed,
        write_model=write_model,
    )  # fmt: skip
    return model, train(model, wrap_objective(built), run, context)  # type: ignore[arg-type]


def write_data(folder: Path, **changes: Any) -> Path:
    write_pairs(folder / "main.parquet", 40, prefix="main", **changes)
    write_pairs(folder / "held_out.parquet", 16, prefix="held")
    write_pairs(folder / "replay.parquet", 24, prefix="replay", improvement_set=True)
    return folder


class StopAt:
    """An objective that dies at its n-th call of `losses`, as a killed process does."""

    def __init__(self, objective: Any, call: int):
        self.inner, self.call, self.calls = objective, call, 0
        self.weights = objective.weights

    @property
    def network(self) -> nn.Module:
        return self.inner.network

    @network.setter
    def network(self, network: nn.Module) -> None:
        self.inner.network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def losses(self, batch: Any) -> Measured:
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt
        return self.inner.losses(batch)


class NotFiniteAt(StopAt):
    """An objective whose n-th loss is NaN."""

    def losses(self, batch: Any) -> Measured:
        self.calls += 1
        measured = self.inner.losses(batch)
        if self.calls != self.call:
            return measured
        return replace(measured, losses={name: loss * float("nan") for name, loss in measured.losses.items()})
