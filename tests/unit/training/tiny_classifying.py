"""Six labels with words that the tiny BERT of tests/conftest.py knows, clips of one label each, small classifiers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from tiny_tag_runs import without_times
from tiny_tagging import AUDIO, NAMES, ast_settings, cnn14_settings, write_tagged
from tiny_tagging import tiny_training as tiny_tag_training
from tiny_training import StopAt

from raysem.models.classifier import Classifier, build_classifier
from raysem.models.classifier_settings import ClassifierSettings
from raysem.models.similarity import SimilarityName, SimilaritySettings
from raysem.text.encoder import TextEncoderSettings
from raysem.text.prompts import LabelPromptSettings
from raysem.training import classifier_spec
from raysem.training.classifier_objective import LinearObjective, PromptObjective
from raysem.training.classifier_spec import ClassifierSpec
from raysem.training.context import LocalContext
from raysem.training.loader import ClipBatch
from raysem.training.run import TrainingResult
from raysem.training.settings import TrainingSettings

# Shapes: B clips, T samples.

WORDS = {
    "Bark": "dog barks", "Meow": "cat", "Siren": "loud siren", "Rain": "rain falls", "Choir": "cat in the rain",
    "Thunder": "loud sound",
}  # fmt: skip
TEMPLATES = ("the sound of {label}", "{label}", "this is a loud {label} in the rain")
SHARED_WIDTH = 12


def text_without_dropout(bert_folder: Path, folder: Path) -> Path:
    """The tiny BERT for comparisons in training mode."""
    shutil.copytree(bert_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def classifier_settings(
    text: Path, similarity: SimilarityName | None = "mean", *, encoder: str = "AST", trained: bool = False,
    **changes: Any,
) -> ClassifierSettings:  # fmt: skip
    """Crops of one second at 8 kHz; a scale at which no term of a softmax vanishes."""
    audio = ast_settings() if encoder == "AST" else cnn14_settings(dropout=0.0)
    settings: dict[str, Any] = {
        "encoder": audio.encoder, "front_end": audio.front_end, "network": audio.network, "crop_seconds": 1.0,
        "similarity": None if similarity is None else SimilaritySettings(name=similarity, cbam_reduction=2),
        "text": TextEncoderSettings(name=str(text), max_tokens=20, trained=trained),
        "prompts": LabelPromptSettings(templates=TEMPLATES), "label_words": WORDS, "shared_width": SHARED_WIDTH,
        "initial_scale": 8.0, "max_scale": 20.0,
    }  # fmt: skip
    return ClassifierSettings(**(settings | changes))


def tiny_classifier(settings: ClassifierSettings, *, labels: Sequence[str] = NAMES, seed: int = 0) -> Classifier:
    return build_classifier(settings, labels, seed=seed)


def label_batch(labels: Sequence[str], order: Sequence[int] | None = None) -> ClipBatch:
    """Noise of which each clip is coloured in another way."""
    generator = torch.Generator().manual_seed(0)
    noise_BT = torch.randn(len(labels), 8000, generator=generator)
    rising_B = torch.linspace(0.0, 1.0, len(labels))[:, None]
    waveform_BT = 0.1 * noise_BT * (1 - rising_B) + 0.02 * rising_B * noise_BT.cumsum(1) / 5
    places = list(order if order is not None else range(len(labels)))
    return ClipBatch(waveform_BT[places], [{labels[k]: 1.0} for k in places], [f"clip-{k}" for k in places], 0)


def write_labelled(path: Path, num_clips: int, *, labels: dict[int, list[str]] | None = None, **changes: Any) -> str:
    """Clips of the six labels in turns."""
    each = {clip: [NAMES[clip % 6]] for clip in range(num_clips)} | (labels or {})
    return write_tagged(path, num_clips, labels=each, **changes)


def write_data(folder: Path, **changes: Any) -> Path:
    """`main.parquet` and `held_out.parquet`."""
    write_labelled(folder / "main.parquet", 30, prefix="main", **changes)
    write_labelled(folder / "held_out.parquet", 13, prefix="held")
    return folder


def tiny_training(**changes: Any) -> TrainingSettings:
    return tiny_tag_training(**({"selection_metric": "accuracy"} | changes))


def tiny_spec(
    output: Path | str, data: Path, text: Path, *, training: dict[str, Any] | None = None, **changes: Any
) -> ClassifierSpec:
    """A run on `data` as `write_data` leaves it."""
    settings: dict[str, Any] = {
        "output": str(output), "labels": NAMES, "sources": (str(data / "main.parquet"),),
        "held_out": (str(data / "held_out.parquet"),), "seed": 3, "model": classifier_settings(text),
        "audio": AUDIO, "training": tiny_training(**(training or {})),
    }  # fmt: skip
    return ClassifierSpec(**(settings | changes))


def trained(spec: ClassifierSpec) -> TrainingResult:
    return spec.train(LocalContext())


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def assert_same_run(one: Path, two: Path, results: tuple[TrainingResult, TrainingResult]) -> None:
    """To the bit: every file of the model, the text encoder's too, each line of the log, the result."""
    assert files_of(one / "model") == files_of(two / "model")
    assert without_times(one) == without_times(two)
    first, second = (replace(result, model="", train_seconds=0.0) for result in results)
    assert first == second


@contextmanager
def stopping(call: int) -> Iterator[list[StopAt]]:
    """Within: runs die in the n-th call of `losses` (0: never); the objectives of those that are begun."""
    begun: list[StopAt] = []

    def of(kind: type[PromptObjective] | type[LinearObjective]) -> Any:
        def build(*rest: Any, **settings: Any) -> StopAt:
            begun.append(StopAt(kind(*rest, **settings), call))
            return begun[-1]

        return build

    with mock.patch.multiple(classifier_spec, PromptObjective=of(PromptObjective), LinearObjective=of(LinearObjective)):
        yield begun


def killed(spec: ClassifierSpec, call: int) -> None:
    """Train until the n-th call of `losses`."""
    with stopping(call), pytest.raises(KeyboardInterrupt):
        trained(spec)
