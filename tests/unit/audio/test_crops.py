from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from raysem.audio.crops import centre_crop, even_crops, train_crop

CLIP_T = np.arange(1, 101, dtype=np.float32)


def test_a_train_crop_is_a_run_of_the_clip_fixed_by_seed_epoch_and_clip() -> None:
    crop = train_crop(CLIP_T, 30, seed=1, epoch=2, clip_id="a")
    np.testing.assert_array_equal(np.diff(crop), 1)
    np.testing.assert_array_equal(crop, train_crop(CLIP_T, 30, seed=1, epoch=2, clip_id="a"))
    others = [(2, 2, "a"), (1, 3, "a"), (1, 2, "b")]
    starts = {float(train_crop(CLIP_T, 30, seed=s, epoch=e, clip_id=c)[0]) for s, e, c in others} | {float(crop[0])}
    assert len(starts) > 1


def test_a_train_crop_does_not_depend_on_the_process() -> None:
    code = (
        "import numpy as np; from raysem.audio.crops import train_crop;"
        "print(int(train_crop(np.arange(100000), 3, seed=1, epoch=2, clip_id='\u00e4')[0]))"
    )
    starts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    here = int(train_crop(np.arange(100_000), 3, seed=1, epoch=2, clip_id="\u00e4")[0])
    assert starts == {f"{here}\n"}


def test_train_crops_fall_everywhere_alike() -> None:
    starts = [int(train_crop(CLIP_T, 91, seed=0, epoch=0, clip_id=f"clip{k}")[0]) for k in range(5000)]
    counts = np.bincount(starts, minlength=11)[1:]
    assert counts.sum() == 5000
    assert abs(counts - 500).max() < 5 * np.sqrt(500)


def test_a_short_clip_stands_whole_among_zeros_at_a_random_offset() -> None:
    offsets = set()
    for epoch in range(30):
        crop = train_crop(CLIP_T, 120, seed=0, epoch=epoch, clip_id="a")
        assert len(crop) == 120
        offset = int(np.flatnonzero(crop)[0])
        np.testing.assert_array_equal(crop[offset : offset + 100], CLIP_T)
        assert np.count_nonzero(crop) == 100
        offsets.add(offset)
    assert len(offsets) > 5
    assert max(offsets) <= 20


def test_a_short_clip_can_stand_between_copies_of_its_first_and_last_sample() -> None:
    for epoch in range(30):
        zeros, edges = (train_crop(CLIP_T, 120, seed=0, epoch=epoch, clip_id="a", fill=f) for f in ("zero", "edge"))
        offset = int(np.flatnonzero(zeros)[0])
        np.testing.assert_array_equal(edges, np.pad(CLIP_T, (offset, 20 - offset), mode="edge"))
        assert edges.dtype == CLIP_T.dtype


def test_what_fills_a_crop_changes_neither_longer_clips_nor_the_default() -> None:
    for epoch in range(30):
        for num_samples in (30, 100, 120):
            default = train_crop(CLIP_T, num_samples, seed=0, epoch=epoch, clip_id="a")
            fill = "zero" if num_samples > 100 else "edge"
            filled = train_crop(CLIP_T, num_samples, seed=0, epoch=epoch, clip_id="a", fill=fill)
            np.testing.assert_array_equal(default, filled)


def test_even_crops_reach_from_start_to_end() -> None:
    crops = even_crops(CLIP_T, 40, 4)
    np.testing.assert_array_equal(crops[:, 0], [1, 21, 41, 61])
    np.testing.assert_array_equal(crops[-1], CLIP_T[-40:])


def test_one_even_crop_is_the_centre() -> None:
    np.testing.assert_array_equal(even_crops(CLIP_T, 40, 1)[0], centre_crop(CLIP_T, 40))
    np.testing.assert_array_equal(centre_crop(CLIP_T, 40), CLIP_T[30:70])


@pytest.mark.parametrize("num_crops", [1, 5])
def test_a_clip_not_longer_than_the_crop_is_repeated_and_gives_one_row(num_crops: int) -> None:
    np.testing.assert_array_equal(even_crops(CLIP_T, 100, num_crops), CLIP_T[None])
    np.testing.assert_array_equal(even_crops(CLIP_T, 250, num_crops), np.r_[CLIP_T, CLIP_T, CLIP_T[:50]][None])


def test_a_short_clip_stands_in_the_centre_of_zeros() -> None:
    np.testing.assert_array_equal(centre_crop(CLIP_T[:3], 6), [0, 1, 2, 3, 0, 0])


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        even_crops(CLIP_T[:0], 10, 1)
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        centre_crop(CLIP_T, 0)
    with pytest.raises(ValueError, match="num_crops is at least 1, got 0"):
        even_crops(CLIP_T, 10, 0)
