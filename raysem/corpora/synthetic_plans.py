"""What the synthetic corpus will hold: every clip's plan, drawn from the settings before any sound is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raysem.config import Settings
from raysem.corpora.encoding import OPUS_RATES, suffix
from raysem.corpora.synthetic_captions import caption, draw
from raysem.corpora.synthetic_sounds import CAPTIONED_SOUNDS, DOMAIN_SOUNDS, LOWEST_SAMPLE_RATE, SOUNDS, WILD_SOUNDS

PART_NAMES = ("teacher", "wild", "test", "validation")

Kind = Literal[
    "event", "off_domain", "noise", "bleeps", "silence", "near_duplicate", "exact_duplicate", "test_overlap", "broken"
]

_SAMPLE_RATES = {8000: 0.04, 11025: 0.04, 16000: 0.22, 22050: 0.2, 32000: 0.16, 44100: 0.24, 48000: 0.1}

_FORMATS = {
    "wav16": 0.24,
    "wav24": 0.08,
    "wav_float": 0.08,
    "flac": 0.24,
    "vorbis": 0.12,
    "opus": 0.1,
    "mp3": 0.08,
    "m4a": 0.06,
}


class SyntheticSettings(Settings):
    """What to make. The same settings give the same sounds, whatever the number of processes."""

    seed: NonNegativeInt = 0
    teacher_clips: PositiveInt = 320
    wild_clips: NonNegativeInt = 900
    test_clips_per_class: PositiveInt = 16
    validation_clips: PositiveInt = 96
    captions_per_clip: PositiveInt = 2
    extra_captions: NonNegativeInt = 400
    """Captions in the pool beside the teacher's, of all classes, those the teacher has never heard included."""
    min_seconds: float = Field(3.0, ge=0.5, le=60)
    max_seconds: float = Field(6.0, ge=0.5, le=60)
    mixture_share: float = Field(0.3, ge=0, le=1)
    """Share of the teacher's, validation and wild clips with a second event."""
    distractor_share: float = Field(0.35, ge=0, le=1)
    """Share of the test clips with a quiet second event from outside the domain."""
    min_snr_db: float = -4.0
    max_snr_db: float = 20.0
    """The background's level against the events is drawn between these."""
    domain_share: float = Field(0.5, ge=0, le=1)
    """Share of the teacher's and validation clips whose first event is of the downstream domain."""
    noise_share: float = Field(0.07, ge=0, le=1)
    bleeps_share: float = Field(0.04, ge=0, le=1)
    silence_share: float = Field(0.03, ge=0, le=1)
    off_domain_share: float = Field(0.1, ge=0, le=1)
    """Share of the wild clips with classes outside the downstream domain; half of them in no caption of the teacher."""
    near_duplicate_share: float = Field(0.05, ge=0, le=1)
    """Share of the wild clips that repeat another one at another level, in another format, from a later start."""
    exact_duplicate_share: float = Field(0.01, ge=0, le=1)
    test_overlap_share: float = Field(0.01, ge=0, le=1)
    """Share of the wild clips that are near-duplicates of test clips."""
    broken_share: float = Field(0.08, ge=0, le=1)
    too_long_seconds: PositiveFloat = 1800.0
    """The duration limit that some of the broken files pass by a second."""
    rows_per_shard: PositiveInt = 150

    @model_validator(mode="after")
    def _check(self) -> SyntheticSettings:
        if self.max_seconds < self.min_seconds:
            raise ValueError(f"max_seconds {self.max_seconds} is below min_seconds {self.min_seconds}")
        if self.max_snr_db < self.min_snr_db:
            raise ValueError(f"max_snr_db {self.max_snr_db} is below min_snr_db {self.min_snr_db}")
        if sum(self.unusual_shares.values()) > 1:
            raise ValueError(f"the shares of the wild pool sum to {sum(self.unusual_shares.values()):.2f}, more than 1")
        return self

    @property
    def unusual_shares(self) -> dict[Kind, float]:
        """Share of each kind of wild clip but the plain events of the domain."""
        return {
            "noise": self.noise_share,
            "bleeps": self.bleeps_share,
            "silence": self.silence_share,
            "off_domain": self.off_domain_share,
            "near_duplicate": self.near_duplicate_share,
            "exact_duplicate": self.exact_duplicate_share,
            "test_overlap": self.test_overlap_share,
            "broken": self.broken_share,
        }


@dataclass(frozen=True)
class ClipPlan:
    """Everything that decides one clip's samples and its row, drawn before any sound is made."""

    clip_id: str
    part: str
    kind: Kind
    sound_seed: tuple[int, ...]
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    format: str = "wav16"
    sample_rate: int = 16_000
    channels: int = 1
    seconds: float = 4.0
    level_dbfs: float = -12.0
    second_level_db: float = -6.0
    snr_db: float = 10.0
    duplicate_of: str | None = None
    change_seed: tuple[int, ...] | None = None
    """How a near-duplicate differs from its original."""

    @property
    def file_name(self) -> str:
        return self.clip_id + suffix(self.format)


@dataclass(frozen=True)
class CaptionPlan:
    """One caption of the pool; `source` is teacher or pool, `labels` are the classes it names."""

    text: str
    source: str
    labels: tuple[str, ...]


def plan_clips(settings: SyntheticSettings) -> dict[str, list[ClipPlan]]:
    """The plans of all clips by part; wild ones without their broken files' outcomes, which are known once written."""
    test = [
        _draw_plan(settings, "test", index, label, "event")
        for index, label in enumerate(list(DOMAIN_SOUNDS) * settings.test_clips_per_class)
    ]
    plans: dict[str, list[ClipPlan]] = {"test": test, "wild": _plan_wild(settings, test)}
    for part, count in (("teacher", settings.teacher_clips), ("validation", settings.validation_clips)):
        rng = _rng(settings, part, 0, 1)
        of_domain = rng.permutation(np.arange(count) < round(settings.domain_share * count))
        inside, outside = _endless(list(DOMAIN_SOUNDS), rng), _endless(list(CAPTIONED_SOUNDS), rng)
        labels = [next(inside) if domain else next(outside) for domain in of_domain]
        plans[part] = [_draw_plan(settings, part, index, label, "event") for index, label in enumerate(labels)]
    return plans


def _plan_wild(settings: SyntheticSettings, test: Sequence[ClipPlan]) -> list[ClipPlan]:
    rng = _rng(settings, "wild", 0, 1)
    kinds: list[Kind] = [
        kind for kind, share in settings.unusual_shares.items() for _ in range(round(share * settings.wild_clips))
    ][: settings.wild_clips]
    kinds += ["event"] * (settings.wild_clips - len(kinds))
    kinds = [kinds[index] for index in rng.permutation(len(kinds))]
    inside = _endless(list(DOMAIN_SOUNDS), rng)
    heard, unheard = _endless(list(CAPTIONED_SOUNDS), rng), _endless(list(WILD_SOUNDS), rng)
    plans = []
    for index, kind in enumerate(kinds):
        label = None
        if kind == "event":
            label = next(inside)
        elif kind == "off_domain":
            label = next(unheard if rng.random() < 0.5 else heard)
        plans.append(_draw_plan(settings, "wild", index, label, kind))
    originals = [plan for plan in plans if plan.kind == "event"]
    for index, plan in enumerate(plans):
        sources: Sequence[ClipPlan] = test if plan.kind == "test_overlap" else originals
        if plan.kind in ("near_duplicate", "exact_duplicate", "test_overlap"):
            # without any original in the pool, one of the test clips
            plans[index] = _repeat_plan(plan, draw(sources or test, rng), settings)
    return plans


def _draw_plan(settings: SyntheticSettings, part: str, index: int, label: str | None, kind: Kind) -> ClipPlan:
    rng = _rng(settings, part, index, 2)
    labels = [label] if label else []
    second_level_db = float(rng.uniform(-8, 0))
    if label and part == "test" and rng.random() < settings.distractor_share:
        labels.append(_other(label, list(CAPTIONED_SOUNDS), rng))
        second_level_db = float(rng.uniform(-16, -6))
    elif label and part != "test" and rng.random() < settings.mixture_share:
        outside = kind == "off_domain"
        labels.append(_other(label, list(CAPTIONED_SOUNDS) if outside else [*DOMAIN_SOUNDS, *CAPTIONED_SOUNDS], rng))
    lowest = max([LOWEST_SAMPLE_RATE.get(name, 8000) for name in labels], default=8000)
    sample_rate = _weighted({rate: share for rate, share in _SAMPLE_RATES.items() if rate >= lowest}, rng)
    snr_db = float(rng.uniform(settings.min_snr_db, settings.max_snr_db))
    level_dbfs = float(rng.uniform(-32, -1))
    captions = _captions(labels, settings.captions_per_clip, rng, faint=level_dbfs < -22, noisy=snr_db < 2)
    return ClipPlan(
        clip_id=f"{part}_{index:06d}",
        part=part,
        kind=kind,
        sound_seed=_words(settings, part, index, 3),
        labels=tuple(labels),
        captions=captions if part in ("teacher", "validation") else (),
        format=_draw_format(sample_rate, rng),
        sample_rate=sample_rate,
        channels=2 if rng.random() < 0.25 else 1,
        seconds=round(float(rng.uniform(settings.min_seconds, settings.max_seconds)), 3),
        level_dbfs=level_dbfs,
        second_level_db=second_level_db,
        snr_db=snr_db,
    )


def _repeat_plan(plan: ClipPlan, original: ClipPlan, settings: SyntheticSettings) -> ClipPlan:
    same = replace(
        original, clip_id=plan.clip_id, part=plan.part, kind=plan.kind, captions=(), duplicate_of=original.clip_id
    )
    if plan.kind == "exact_duplicate":
        return same
    index = int(plan.clip_id.rsplit("_", 1)[1])
    rng = _rng(settings, plan.part, index, 4)
    format = _draw_format(original.sample_rate, rng)
    return replace(same, format=format, change_seed=_words(settings, plan.part, index, 5))


def _captions(labels: list[str], count: int, rng: np.random.Generator, *, faint: bool, noisy: bool) -> tuple[str, ...]:
    """Distinct wordings; fewer than `count` only if none other is found in some tries."""
    found: dict[str, None] = {}
    for _ in range(8 * count):
        if labels and len(found) < count:
            found[caption(labels, rng, faint=faint, noisy=noisy)] = None
    return tuple(found)


def _words(settings: SyntheticSettings, part: str, index: int, purpose: int) -> tuple[int, ...]:
    return (settings.seed, (*PART_NAMES, "captions").index(part), index, purpose)


def _rng(settings: SyntheticSettings, part: str, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng(_words(settings, part, index, purpose))


def _endless(names: list[str], rng: np.random.Generator) -> Iterator[str]:
    """All names in random order, again and again, so that classes are balanced."""
    while True:
        for index in rng.permutation(len(names)):
            yield names[int(index)]


def _other(label: str, names: list[str], rng: np.random.Generator) -> str:
    return draw([name for name in names if name != label], rng)


def _draw_format(sample_rate: int, rng: np.random.Generator) -> str:
    possible = {name: share for name, share in _FORMATS.items() if name != "opus" or sample_rate in OPUS_RATES}
    return _weighted(possible, rng)


def _weighted(shares: dict[Any, float], rng: np.random.Generator) -> Any:
    """One key, drawn with the probability its share says."""
    names = list(shares)
    heights = np.cumsum([shares[name] for name in names])
    return names[int(np.searchsorted(heights, rng.random() * heights[-1], side="right"))]


def plan_captions(teacher: Sequence[ClipPlan], settings: SyntheticSettings) -> list[CaptionPlan]:
    """Every distinct caption of the pool, the teacher's first."""
    pool: dict[str, tuple[str, tuple[str, ...]]] = {}
    for plan in teacher:
        for text in plan.captions:
            pool.setdefault(text, ("teacher", plan.labels))
    rng = _rng(settings, "captions", 0, 1)
    names = list(SOUNDS)
    wanted, tries = len(pool) + settings.extra_captions, 0
    while len(pool) < wanted and tries < 50 * settings.extra_captions:
        tries += 1
        labels = [draw(names, rng)]
        if rng.random() < 0.4:
            labels.append(_other(labels[0], names, rng))
        text = caption(labels, rng, faint=rng.random() < 0.3, noisy=rng.random() < 0.2)
        pool.setdefault(text, ("pool", tuple(labels)))
    return [CaptionPlan(text, source, labels) for text, (source, labels) in pool.items()]
