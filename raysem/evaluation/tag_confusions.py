"""Which mistakes of a tagger moved in the ontology: the wrong tags of one model against those of another."""

# Shapes: N clips, K classes, R resamples; 2: before and after, 4: sum and number of distances before and after.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raysem.evaluation.moved_confusions import ClassDistance, ClassMove, MovedConfusions, MovedTag, WrongClass
from raysem.evaluation.wrong_tags import WrongTags, wrong_tags
from raysem.metrics.bootstrap import Interval

_CHUNK_CELLS = 4_000_000  # bounds the drawn clips in memory to 32 MB


def moved_confusions(
    one_NK: Any,
    other_NK: Any,
    targets_NK: Any,
    distances_KK: Any,
    class_names: Sequence[str],
    *,
    count: int,
    num_examples: int = 3,
    set_name: str = "",
    models: tuple[str, str] = ("one", "other"),
    seed: int = 0,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> MovedConfusions:
    """Where the mistakes of `other` lie nearer in the ontology than those of `one`, and where farther.

    A mistake is a wrong tag of `raysem.evaluation.wrong_tags`: a clip with r labels is given its r best-scored classes,
    whatever the scores are worth. It is a mistake about the label nearest to it (about each of m equally near ones by
    1 / m), so the classes' means, weighted by their numbers of wrong tags, give `false_positive_distance`.

    Classes with wrong tags under both models are ordered by the change of their mean distance times the smaller of the
    two numbers of wrong tags: one odd clip does not lead the list. Ours: the paper says only that mistakes move closer.

    Args:
        one_NK, other_NK: scores of the same clips; `models` names the two.
        count: classes listed as closer, and as farther, at most.
        num_examples: wrong classes and moved tags listed for each of them.
        seed, num_resamples, level: of the interval of the change, from clips drawn again for both models.
    """
    found = _of_both(one_NK, other_NK, targets_NK, distances_KK, models)
    if len(class_names) != found[0].num_classes:
        raise ValueError(f"one name for each of {found[0].num_classes} classes, got {len(class_names)}")
    number_2K, mean_2K = _class_means(found)
    # Rounded: thirds that add up to the same mean are no move.
    moved_K = np.round(np.nan_to_num(mean_2K[1] - mean_2K[0]) * number_2K.min(axis=0), 9)
    per_class = [
        ClassDistance(name, _known(before), _known(after), float(num_before), float(num_after))
        for name, before, after, num_before, num_after in zip(class_names, *mean_2K, *number_2K, strict=True)
    ]

    def listed(classes: Sequence[int]) -> tuple[ClassMove, ...]:
        chosen = classes[:count]
        return tuple(_move(found, per_class[i], i, np.sign(moved_K[i]), class_names, num_examples) for i in chosen)

    order = np.argsort(moved_K, kind="stable").tolist()
    return MovedConfusions(
        set_name=set_name,
        models=models,
        before=_known(found[0].mean_distance),
        after=_known(found[1].mean_distance),
        num_before=len(found[0].clip_P),
        num_after=len(found[1].clip_P),
        change=_change(*found, seed=seed, num_resamples=num_resamples, level=level),
        num_clips=_moved_clips(*found),
        closer=listed([index for index in order if moved_K[index] < 0]),
        farther=listed([index for index in reversed(order) if moved_K[index] > 0]),
        per_class=tuple(per_class),
    )


def _move(
    found: tuple[WrongTags, WrongTags],
    about: ClassDistance,
    index: int,
    direction: float,
    class_names: Sequence[str],
    num_examples: int,
) -> ClassMove:
    """What is shown of one class that moved in `direction`."""
    return ClassMove(
        **vars(about),
        called_before=tuple(_called(found[0], index, class_names)[:num_examples]),
        called_after=tuple(_called(found[1], index, class_names)[:num_examples]),
        examples=tuple(_examples(found, index, direction, class_names)[:num_examples]),
    )


def _of_both(
    one_NK: Any, other_NK: Any, targets_NK: Any, distances_KK: Any, models: tuple[str, str]
) -> tuple[WrongTags, WrongTags]:
    found = []
    for name, scores_NK in zip(models, (one_NK, other_NK), strict=True):
        try:
            found.append(wrong_tags(scores_NK, targets_NK, distances_KK))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found[0], found[1]


def _class_means(found: tuple[WrongTags, WrongTags]) -> tuple[np.ndarray, np.ndarray]:
    """Number of wrong tags about each class and their mean distance (2, K); NaN where there is none."""
    number_2K = np.stack([np.bincount(tags.label_Q, tags.shares, tags.num_classes) for tags in found])
    total_2K = np.stack(
        [np.bincount(tags.label_Q, tags.shares * tags.distance_P[tags.tag_Q], tags.num_classes) for tags in found]
    )
    return number_2K, np.divide(total_2K, number_2K, out=np.full(total_2K.shape, np.nan), where=number_2K > 0)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _called(tags: WrongTags, index: int, class_names: Sequence[str]) -> list[WrongClass]:
    """What clips of the class are wrongly called, most often first, then nearest first."""
    of_class = tags.label_Q == index
    about = tags.tag_Q[of_class]
    count_K = np.bincount(tags.class_P[about], tags.shares[of_class], minlength=len(class_names))
    distance_of = dict(zip(tags.class_P[about].tolist(), tags.distance_P[about].tolist(), strict=True))
    order = sorted(distance_of, key=lambda k: (-count_K[k], distance_of[k], k))
    return [WrongClass(class_names[k], distance_of[k], float(count_K[k])) for k in order]


def _examples(
    found: tuple[WrongTags, WrongTags], index: int, towards: float, class_names: Sequence[str]
) -> list[MovedTag]:
    """Pairs of the surest wrong tag about the class under one and the other model, farthest moved (in all) first."""
    before, after = (_surest(tags, index) for tags in found)
    clips: dict[tuple[int, int], list[int]] = {}
    for clip in sorted(before.keys() & after.keys()):
        pair = before[clip], after[clip]
        if towards * (found[1].distance_P[pair[1]] - found[0].distance_P[pair[0]]) > 0:
            key = int(found[0].class_P[pair[0]]), int(found[1].class_P[pair[1]])
            clips.setdefault(key, []).append(clip)
    moved = []
    for (one, other), of_pair in clips.items():
        first = of_pair[0]
        distances = int(found[0].distance_P[before[first]]), int(found[1].distance_P[after[first]])
        moved.append(MovedTag(class_names[one], distances[0], class_names[other], distances[1], len(of_pair), first))
    return sorted(
        moved, key=lambda tag: (-tag.num_clips * abs(tag.after_distance - tag.before_distance), tag.before, tag.after)
    )


def _surest(tags: WrongTags, index: int) -> dict[int, int]:
    """The best-scored wrong tag about the class, by clip."""
    about = tags.tag_Q[tags.label_Q == index]
    clips, first = np.unique(tags.clip_P[about], return_index=True)
    return dict(zip(clips.tolist(), about[first].tolist(), strict=True))


def _moved_clips(one: WrongTags, other: WrongTags) -> tuple[int, int, int]:
    """Clips with wrong tags under both models whose mean distance fell, stayed, rose."""
    sums_one, sums_other = _by_clip(one), _by_clip(other)
    both = (sums_one[1] > 0) & (sums_other[1] > 0)
    # Compared as whole numbers: 1 / 3 and 2 / 6 are the same.
    moved = (sums_other[0] * sums_one[1] - sums_one[0] * sums_other[1])[both]
    return int((moved < 0).sum()), int((moved == 0).sum()), int((moved > 0).sum())


def _by_clip(tags: WrongTags) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the distances and number of wrong tags of each clip, int64 (N,)."""
    number_N = np.bincount(tags.clip_P, minlength=tags.num_clips)
    return np.bincount(tags.clip_P, tags.distance_P, minlength=tags.num_clips).astype(np.int64), number_N


def _change(one: WrongTags, other: WrongTags, *, seed: int, num_resamples: int, level: float) -> Interval | None:
    """Percentile interval of the difference of the two mean distances; None where a model has no wrong tag."""
    if num_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"num_resamples must be positive and level in (0, 1), got {num_resamples} and {level}")
    if not len(one.clip_P) or not len(other.clip_P):
        return None
    sums_N4 = np.stack([*_by_clip(one), *_by_clip(other)], axis=1).astype(np.float64)
    generator = np.random.default_rng(seed)
    even_N = np.full(one.num_clips, 1 / one.num_clips)
    drawn = []
    chunk = max(1, _CHUNK_CELLS // one.num_clips)
    for start in range(0, num_resamples, chunk):
        times_RN = generator.multinomial(one.num_clips, even_N, size=min(chunk, num_resamples - start))
        sums_R4 = times_RN @ sums_N4
        sums_R4 = sums_R4[(sums_R4[:, 1] > 0) & (sums_R4[:, 3] > 0)]  # a draw without a mistake has no mean
        drawn.append(sums_R4[:, 2] / sums_R4[:, 3] - sums_R4[:, 0] / sums_R4[:, 1])
    drawn_R = np.concatenate(drawn)
    if not len(drawn_R):
        return None
    low, high = np.quantile(drawn_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(other.mean_distance - one.mean_distance, float(low), float(high), level)
