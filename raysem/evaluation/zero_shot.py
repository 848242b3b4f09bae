"""Zero-shot classification: a clip belongs to the class whose prompt it is nearest to. Arrays in, numbers out."""

# Shapes: A clips, C crops of a clip, K classes, D embedding width.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from raysem.config import Settings
from raysem.evaluation.class_confusions import ClassConfusions
from raysem.metrics.accuracy import top1_correct
from raysem.metrics.bootstrap import Interval, bootstrap_interval
from raysem.text.prompts import PromptSettings


class ZeroShotSettings(Settings):
    """What moves a zero-shot score by points, pinned; written into each result."""

    prompt: PromptSettings = PromptSettings()
    crops_per_clip: PositiveInt = 5
    """Evenly placed crops of a clip longer than the model's crop, averaged; a shorter clip is repeat-padded to one."""
    num_resamples: PositiveInt = 2000
    """Resamples of the bootstrap interval."""
    interval_level: float = Field(0.95, gt=0, lt=1)
    num_confused_pairs: PositiveInt = 10
    """How many of the most confused pairs of classes are listed."""


@dataclass(frozen=True)
class ZeroShotProtocol:
    """Everything that a reader needs to get the same score from the same weights."""

    prompt_template: str
    label_texts: tuple[str, ...]  # what the text encoder was given, one per class
    sample_rate: int
    crop_seconds: float
    crops_per_clip: int
    label_cleaning: str = 'lower case, "_" and "/" to spaces'
    padding: str = "repeat"
    crop_pooling: str = "mean of the crops' normalised embeddings"

    def to_json(self) -> dict[str, Any]:
        """As it stands in summary.json."""
        return {**vars(self), "label_texts": list(self.label_texts)}


@dataclass(frozen=True)
class ZeroShotResult:
    """Accuracy of one model on one labelled set; `correct_A` is kept for paired comparisons."""

    correct_A: np.ndarray  # 1, 0, or 1 / m where m classes tie
    interval: Interval
    confusions: ClassConfusions
    protocol: ZeroShotProtocol

    @property
    def accuracy(self) -> float:
        """Share of the clips that are classified right."""
        return self.interval.estimate

    def to_json(self) -> dict[str, Any]:
        """The part of summary.json under `zero_shot.<set>`; classes without clips have accuracy None."""
        return {
            "accuracy": self.accuracy,
            "interval": self.interval.to_json(),
            "interval_level": self.interval.level,
            "num_clips": len(self.correct_A),
            **self.confusions.to_json(),
            "protocol": self.protocol.to_json(),
        }


def zero_shot(
    audio_AD: np.ndarray,
    clip_labels: Sequence[str],
    text_KD: np.ndarray,
    labels: Sequence[str],
    *,
    settings: ZeroShotSettings,
    protocol: ZeroShotProtocol,
    seed: int = 0,
) -> ZeroShotResult:
    """Accuracy of argmax_k cos(audio, text of class k); with an interval over clips.

    Args:
        audio_AD, text_KD: embeddings of any scale; normalised here. Row k of the text is the prompt of `labels[k]`.
        clip_labels: the one true label of each clip, spelled as in `labels`.
        seed: of the bootstrap only.
    """
    duplicated = sorted({label for label in labels if list(labels).count(label) > 1})
    if duplicated:
        raise ValueError(f"labels are listed twice: {duplicated}")
    index_of = {label: index for index, label in enumerate(labels)}
    unknown = sorted({label for label in clip_labels if label not in index_of})
    if unknown:
        raise ValueError(
            f"{len(unknown)} labels of clips have no prompt: {unknown[:5]}; there are {sorted(labels)[:20]}"
        )
    if len(audio_AD) != len(clip_labels) or len(text_KD) != len(labels):
        raise ValueError(
            f"one embedding per clip and per label: {len(audio_AD)} for {len(clip_labels)} clips, "
            f"{len(text_KD)} for {len(labels)} labels"
        )
    if len(clip_labels) == 0:
        raise ValueError("zero-shot evaluation of no clips: every clip of the set was rejected, or the set is empty")
    similarity_AK = cosine_similarity(audio_AD, text_KD)
    target_A = np.array([index_of[label] for label in clip_labels])
    correct_A = top1_correct(similarity_AK, target_A)
    return ZeroShotResult(
        correct_A=correct_A,
        interval=bootstrap_interval(
            correct_A, seed=seed, num_resamples=settings.num_resamples, level=settings.interval_level
        ),
        confusions=ClassConfusions.of(similarity_AK, target_A, labels, count=settings.num_confused_pairs),
        protocol=protocol,
    )


def mean_of_crops(crops_CD: np.ndarray, clip_of_crop_C: np.ndarray, num_clips: int) -> np.ndarray:
    """One unit embedding per clip (A, D): the mean of its crops' unit embeddings. Here C counts all clips' crops."""
    crops_CD, clip_of_crop_C = _unit(crops_CD), np.asarray(clip_of_crop_C)
    if len(crops_CD) != len(clip_of_crop_C):
        raise ValueError(f"one clip index per crop: {len(clip_of_crop_C)} for {len(crops_CD)} crops")
    without = np.setdiff1d(np.arange(num_clips), clip_of_crop_C)
    if len(without):
        raise ValueError(f"{len(without)} clips have no crop, the first is clip {without[0]}")
    sums_AD = np.zeros((num_clips, crops_CD.shape[1]))
    np.add.at(sums_AD, clip_of_crop_C, crops_CD)
    return _unit(sums_AD).astype(np.float32)


def cosine_similarity(a_AD: np.ndarray, b_BD: np.ndarray) -> np.ndarray:
    """Cosines (A, B) in float64, rounded to 12 decimals: equal embeddings tie whatever order BLAS sums them in."""
    if a_AD.ndim != 2 or b_BD.ndim != 2 or a_AD.shape[1] != b_BD.shape[1]:
        raise ValueError(f"embeddings must be (rows, D) of one width, got {a_AD.shape} and {b_BD.shape}")
    return np.round(_unit(a_AD) @ _unit(b_BD).T, 12)


def _unit(rows_AD: np.ndarray) -> np.ndarray:
    rows_AD = np.asarray(rows_AD, dtype=np.float64)
    norm_A1 = np.linalg.norm(rows_AD, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norm_A1) & (norm_A1 > 0))[:, 0])
    if len(bad):
        raise ValueError(f"{len(bad)} embeddings are zero or not finite, the first is row {bad[0]}")
    return rows_AD / norm_A1
