"""Augmented crops with labels, and mixtures of two of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_tagging import SAMPLE_RATE, labels_of, tagged_loader, tiny_classes, write_tagged

from raysem.audio.augment import AUDIOCLIP_AUGMENTATION, AugmentSettings, augment, augment_time
from raysem.audio.crops import train_crop
from raysem.audio.mixup import mixup_ratio
from raysem.training.clips import ClipLoader
from raysem.training.examples import Example
from raysem.training.tag_examples import MixupSettings, TaggedCrops, mixed_labels
from raysem.training.tag_objective import soft_targets

# Shapes: T samples.

NUM_CLIPS, CROP_SAMPLES, ALPHA, SEED = 24, 600, 2.0, 5
AUGMENTATION = AugmentSettings(gain_db=(-6.0, 6.0), time_shift_seconds=0.02)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Clips of 0.05 to 0.125 s: a quarter of them shorter than the crop."""
    return write_tagged(tmp_path_factory.mktemp("data") / "main.parquet", NUM_CLIPS, seconds=0.05)


def crops(
    clips: ClipLoader, probability: float, *, seed: int = SEED, augmentation: AugmentSettings = AUGMENTATION
) -> TaggedCrops:
    mixup = MixupSettings(probability=probability, alpha=ALPHA)
    return TaggedCrops(clips, CROP_SAMPLES, seed, augmentation, mixup)


def assert_same(one: Example, two: Example) -> None:
    assert np.array_equal(one.crop_T, two.crop_T)
    assert (one.texts, one.clip_id, one.unusable) == (two.texts, two.clip_id, two.unusable)


def plain_crop(clips: ClipLoader, row: int, epoch: int) -> np.ndarray:
    """What a row gives in an epoch without mixup."""
    clip, samples_T = clips.row_and_waveform(0, row)
    assert isinstance(samples_T, np.ndarray)
    drawn: dict[str, Any] = {"seed": SEED, "epoch": epoch, "clip_id": clip.clip_id}
    return augment(train_crop(samples_T, CROP_SAMPLES, **drawn), AUGMENTATION, SAMPLE_RATE, **drawn)


def centred(samples_T: np.ndarray) -> np.ndarray:
    return samples_T.astype(np.float64) - samples_T.mean(dtype=np.float64)


def partner_of(example: Example, clips: ClipLoader, row: int, epoch: int, among: Sequence[int]) -> int:
    """The row whose crop is what a mixture holds besides its own, found by trying all of them."""
    ratio = mixup_ratio(ALPHA, seed=SEED, epoch=epoch, clip_id=example.clip_id)
    rest_T = example.crop_T - ratio * centred(plain_crop(clips, row, epoch))
    fitting = [
        other
        for other in among
        if np.allclose(rest_T, (1 - ratio) * centred(plain_crop(clips, other, epoch)), rtol=0, atol=1e-6)
    ]
    assert len(fitting) == 1, f"row {row} of epoch {epoch} fits {fitting}"
    return fitting[0]


def test_labels_are_mixed_with_the_ratio_and_what_both_clips_have_stays_whole():
    one, other = {"Bark": 1.0, "Rain": 1.0}, {"Rain": 1.0, "Siren": 1.0}
    assert mixed_labels(one, other, 0.25) == {"Bark": 0.25, "Rain": 1.0, "Siren": 0.75}
    assert mixed_labels({"Bark": 0.5, "Rain": 0.2}, {"Rain": 0.6}, 0.75) == pytest.approx({"Bark": 0.375, "Rain": 0.3})
    assert mixed_labels({}, {"Rain": 1.0}, 0.25) == {"Rain": 0.75}
    assert mixed_labels({}, {}, 0.25) == {}


def test_a_label_of_both_clips_weighs_exactly_one_whatever_the_ratio():
    for ratio in np.random.default_rng(0).random(2000):
        assert mixed_labels({"Rain": 1.0}, {"Rain": 1.0}, float(ratio)) == {"Rain": 1.0}


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_ratio_of_one_or_zero_gives_the_targets_of_one_clip(ratio: float):
    one, other = {"Bark": 1.0, "Rain": 1.0}, {"Rain": 1.0, "Siren": 1.0}
    classes = tiny_classes()
    mixed_BK = soft_targets([mixed_labels(one, other, ratio)], classes)
    assert mixed_BK.equal(soft_targets([one if ratio else other], classes))


def test_no_thread_cache_or_order_changes_an_example(file: str):
    asked = [(row, epoch) for epoch in range(3) for row in range(NUM_CLIPS)]
    in_order = crops(tagged_loader(file), 0.5)
    expected = {place: in_order.example(0, *place) for place in asked}
    shuffled = [asked[k] for k in np.random.default_rng(1).permutation(len(asked))]
    other = crops(tagged_loader(file, cache_mib=0), 0.5)
    with ThreadPoolExecutor(6) as pool:
        for place, example in zip(shuffled, pool.map(lambda place: other.example(0, *place), shuffled), strict=True):
            assert_same(example, expected[place])


def test_another_epoch_or_seed_gives_other_crops_mixtures_and_partners(file: str):
    clips = tagged_loader(file)
    for one, two in (
        (crops(clips, 1.0).example(0, 2, 0), crops(clips, 1.0).example(0, 2, 1)),
        (crops(clips, 1.0).example(0, 2, 0), crops(clips, 1.0, seed=6).example(0, 2, 0)),
    ):
        assert one.clip_id == two.clip_id == "clip-0002"
        assert not np.allclose(one.crop_T, two.crop_T)

    def mixed(epoch: int, seed: int = SEED) -> list[bool]:
        examples = (crops(clips, 0.5, seed=seed).example(0, row, epoch) for row in range(NUM_CLIPS))
        return [any(weight < 1 for weight in example.texts.values()) for example in examples]

    assert len({tuple(mixed(0)), tuple(mixed(1)), tuple(mixed(0, seed=6))}) == 3


def test_the_place_in_the_table_changes_neither_the_crop_nor_whether_it_is_mixed(file: str, tmp_path: Path):
    backwards = write_tagged(tmp_path / "main.parquet", NUM_CLIPS, seconds=0.05, order=range(NUM_CLIPS - 1, -1, -1))
    clips, turned = tagged_loader(file), tagged_loader(backwards)
    for row in range(NUM_CLIPS):
        there = NUM_CLIPS - 1 - row
        assert_same(crops(clips, 0.0).example(0, row, 1), crops(turned, 0.0).example(0, there, 1))
        pairs = [(clips, row), (turned, there)]
        mixed = [not np.array_equal(crops(c, 0.5).example(0, r, 1).crop_T, plain_crop(c, r, 1)) for c, r in pairs]
        assert mixed[0] == mixed[1]


def test_with_probability_zero_an_example_is_its_augmented_crop_with_whole_labels(file: str):
    clips = tagged_loader(file)
    for row in range(NUM_CLIPS):
        example = crops(clips, 0.0).example(0, row, 4)
        assert np.array_equal(example.crop_T, plain_crop(clips, row, 4))
        assert example.texts == dict.fromkeys(labels_of(row), 1.0)
        assert example.crop_T.dtype == np.float32
    assert MixupSettings().probability == 0


def test_a_crop_is_taken_from_the_reversed_and_scaled_clip_and_gets_its_noise_afterwards(file: str):
    clips = tagged_loader(file)
    all_on = AUDIOCLIP_AUGMENTATION.model_copy(update={"gain_db": (-6.0, 6.0), "noise_probability": 1.0})
    padded = 0
    for row in range(NUM_CLIPS):
        clip, samples_T = clips.row_and_waveform(0, row)
        assert isinstance(samples_T, np.ndarray)
        drawn: dict[str, Any] = {"seed": SEED, "epoch": 3, "clip_id": clip.clip_id}
        scaled_T = augment_time(samples_T, all_on, **drawn)
        expected_T = augment(train_crop(scaled_T, CROP_SAMPLES, fill="edge", **drawn), all_on, SAMPLE_RATE, **drawn)
        assert np.array_equal(crops(clips, 0.0, augmentation=all_on).example(0, row, 3).crop_T, expected_T)
        padded += len(scaled_T) < CROP_SAMPLES
    assert 0 < padded < NUM_CLIPS


def test_without_augmentation_an_example_is_the_bare_crop_padded_with_zeros(file: str):
    clips = tagged_loader(file)
    short = 0
    for row in range(NUM_CLIPS):
        clip, samples_T = clips.row_and_waveform(0, row)
        assert isinstance(samples_T, np.ndarray)
        bare_T = train_crop(samples_T, CROP_SAMPLES, seed=SEED, epoch=4, clip_id=clip.clip_id)
        crop_T = crops(clips, 0.0, augmentation=AugmentSettings()).example(0, row, 4).crop_T
        assert crop_T.tobytes() == bare_T.tobytes()
        if len(samples_T) < CROP_SAMPLES:
            short += 1
            assert np.count_nonzero(crop_T) <= len(samples_T)
    assert short > 0


def test_with_probability_one_every_example_is_the_arithmetic_on_two_crops_and_their_labels(file: str):
    clips = tagged_loader(file)
    partners: Counter[int] = Counter()
    for epoch in range(10):
        for row in range(NUM_CLIPS):
            example = crops(clips, 1.0).example(0, row, epoch)
            partner = partner_of(example, clips, row, epoch, range(NUM_CLIPS))
            partners[partner] += 1
            ratio = mixup_ratio(ALPHA, seed=SEED, epoch=epoch, clip_id=example.clip_id)
            expected = Counter(dict.fromkeys(labels_of(row), ratio))
            expected.update(dict.fromkeys(labels_of(partner), 1 - ratio))
            assert dict(example.texts) == pytest.approx(dict(expected))
            assert (example.crop_T.shape, example.crop_T.dtype) == ((CROP_SAMPLES,), np.float32)
    chi_square = sum((partners[row] - 10) ** 2 / 10 for row in range(NUM_CLIPS))
    assert chi_square < NUM_CLIPS - 1 + 5 * np.sqrt(2 * (NUM_CLIPS - 1)), "each clip is a partner as likely"


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.9])
def test_the_share_of_mixed_examples_is_the_probability(file: str, probability: float):
    clips = tagged_loader(file)
    examples = crops(clips, probability, augmentation=AugmentSettings())
    plain = crops(clips, 0.0, augmentation=AugmentSettings())
    drawn = [(0, row, epoch) for epoch in range(50) for row in range(NUM_CLIPS)]
    mixed = sum(not np.array_equal(examples.example(*place).crop_T, plain.example(*place).crop_T) for place in drawn)
    spread = np.sqrt(probability * (1 - probability) * len(drawn))
    assert abs(mixed - probability * len(drawn)) < 4 * spread


def test_of_a_table_read_by_row_group_the_partner_is_from_the_row_group_at_hand(tmp_path: Path):
    file = write_tagged(tmp_path / "main.parquet", NUM_CLIPS, seconds=0.05, row_group_rows=5)
    clips = tagged_loader(file, memory_mib=0)
    assert not clips.tables[0].in_memory
    for row in (0, 4, 5, 14, 23):
        group = range(row // 5 * 5, min(row // 5 * 5 + 5, NUM_CLIPS))
        found = {
            partner_of(crops(clips, 1.0).example(0, row, epoch), clips, row, epoch, range(NUM_CLIPS))
            for epoch in range(12)
        }
        assert found <= set(group)
        assert len(found) > 1


def test_a_partner_that_cannot_be_used_is_replaced_and_counted(tmp_path: Path):
    clips = tagged_loader(write_tagged(tmp_path / "main.parquet", 2, seconds=0.05, broken=[1]))
    examples = crops(clips, 1.0)
    counted = 0
    for epoch in range(60):
        whole, replaced = examples.example(0, 0, epoch), examples.example(0, 1, epoch)
        plain_T = plain_crop(clips, 0, epoch)
        for example in (whole, replaced):  # the one clip that can be used stands in for the other, mixed with itself
            assert example.clip_id == "clip-0000"
            np.testing.assert_allclose(example.crop_T, centred(plain_T), atol=1e-6)
            assert example.texts == dict.fromkeys(labels_of(0), 1.0)
            assert {clip.clip_id for clip in example.unusable} <= {"clip-0001"}
            assert {clip.outcome for clip in example.unusable} <= {"undecodable"}
        counted += bool(whole.unusable)
        partner_was_broken = len(replaced.unusable) - len(crops(clips, 0.0).example(0, 1, epoch).unusable)
        assert (partner_was_broken > 0) == bool(whole.unusable), "its partner is that of the clip that stands in"
        assert not crops(clips, 0.0).example(0, 0, epoch).unusable
    assert 15 < counted < 45  # half of the partners drawn are the broken clip
