"""What the answers of a listening test say: who wins, how surely, and whether the raters agree.

A rater's clips are independent trials, so the exact test is taken over them. Answers of several raters about one clip
are not: together the interval draws clips and not answers, and the test counts each clip once.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raysem.errors import DataError
from raysem.listening.study import RaterAnswers, StudyKey, Vote, read_answers, read_key
from raysem.metrics.agreement import disagreement, krippendorff_alpha
from raysem.metrics.binomial import sign_test, win_rate
from raysem.metrics.bootstrap import Interval, bootstrap_interval

NUM_DISPUTED = 5


@dataclass(frozen=True)
class Tally:
    """Votes, and what they say. `rate` is first / (first + second), None where there is neither; so is the test."""

    first: int
    second: int
    same: int
    rate: Interval | None
    p_value: float | None
    """Two-sided exact binomial test of "either is preferred as often"; None where answers are not independent."""


@dataclass(frozen=True)
class RaterScore:
    """One rater. `left` of first + second choices fell on the left list: far from half, a habit and no judgement."""

    rater: str
    file: str
    answered: int
    tally: Tally
    left: int
    median_seconds: float | None


@dataclass(frozen=True)
class DisputedClip:
    """A clip on which raters part; `disagreement` is the share of pairs of raters who differ."""

    clip_id: str
    disagreement: float
    first: int
    second: int
    same: int


@dataclass(frozen=True)
class StudyScore:
    """A listening test, scored."""

    study: str
    first: str
    second: str
    num_clips: int
    raters: tuple[RaterScore, ...]
    together: Tally
    """All answers; the interval draws clips."""
    by_clip: Tally
    """One vote a clip: for the model that more raters chose, `same` where as many chose either."""
    alpha: float | None
    """Krippendorff's alpha over first, second and same, as nominal categories."""
    num_shared_clips: int
    """Clips that two raters or more answered."""
    disputed: tuple[DisputedClip, ...]

    def to_json(self) -> dict[str, Any]:
        """Every number, for programs."""
        return asdict(self)


def score_study(key_file: str, answer_files: Sequence[str]) -> StudyScore:
    """Read the key and the raters' files and score them.

    Raises:
        DataError, ConfigError: a file that is not what it should be, of another study, or a rater with two files.
    """
    key = read_key(key_file)
    raters = [read_answers(file, key) for file in answer_files]
    if not raters:
        raise DataError(f"{key_file}: no file of answers is given")
    seen: dict[str, str] = {}
    for rater in raters:
        name = rater.rater.casefold()
        if name in seen:
            raise DataError(f"{rater.file}: rater {rater.rater!r} also stands in {seen[name]}; give one of them")
        seen[name] = rater.file
    return score(key, raters)


def score(key: StudyKey, raters: Sequence[RaterAnswers]) -> StudyScore:
    """Score the answers of raters with different names."""
    by_clip = {clip.clip_id: [r.votes[clip.token] for r in raters if clip.token in r.votes] for clip in key.clips}
    verdicts = [_verdict(votes) for votes in by_clip.values() if votes]
    return StudyScore(
        study=key.study,
        first=key.first,
        second=key.second,
        num_clips=len(key.clips),
        raters=tuple(_rater_score(rater) for rater in raters),
        together=_together(list(by_clip.values())),
        by_clip=_exact(verdicts),
        alpha=krippendorff_alpha(by_clip.values()),
        num_shared_clips=sum(len(votes) > 1 for votes in by_clip.values()),
        disputed=_disputed(by_clip.items()),
    )


def _rater_score(rater: RaterAnswers) -> RaterScore:
    median = statistics.median(rater.seconds.values()) if rater.seconds else None
    tally = _exact(list(rater.votes.values()))
    return RaterScore(rater.rater, rater.file, len(rater.votes), tally, rater.num_left, median)


def _exact(votes: Sequence[Vote]) -> Tally:
    count = Counter(votes)
    first, second = count["first"], count["second"]
    if not first + second:
        return Tally(0, 0, count["same"], None, None)
    return Tally(first, second, count["same"], win_rate(first, second), sign_test(first, second))


def _together(votes_by_clip: Sequence[Sequence[Vote]]) -> Tally:
    count = Counter(vote for votes in votes_by_clip for vote in votes)
    wins = [(clip, vote == "first") for clip, votes in enumerate(votes_by_clip) for vote in votes if vote != "same"]
    rate = None
    if wins:
        clips, is_first = zip(*wins, strict=True)
        rate = bootstrap_interval(is_first, seed=0, groups_A=clips)  # type: ignore[arg-type]  # made an array there
    return Tally(count["first"], count["second"], count["same"], rate, None)


def _verdict(votes: Sequence[Vote]) -> Vote:
    count = Counter(votes)
    if count["first"] == count["second"]:
        return "same"
    return "first" if count["first"] > count["second"] else "second"


def _disputed(votes_by_clip: Iterable[tuple[str, Sequence[Vote]]]) -> tuple[DisputedClip, ...]:
    found = []
    for clip_id, votes in votes_by_clip:
        if len(votes) > 1 and (share := disagreement(votes)) > 0:
            count = Counter(votes)
            found.append(DisputedClip(clip_id, share, count["first"], count["second"], count["same"]))
    return tuple(sorted(found, key=lambda clip: (-clip.disagreement, clip.clip_id)))[:NUM_DISPUTED]
