import functools
import subprocess
import sys

import numpy as np
import pytest
import torch

from raysem.curation import matching, sketches
from raysem.curation.matching import PreparedCaptions, match_above, match_tiles, pair_similarity
from raysem.errors import DataError

# Shapes: A clips, C captions, D embedding width.

PRECISIONS = ["int8", "bf16", "fp32"]


def unit_rows(num_rows: int, width: int, seed: int, topics: int = 6) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((topics, width))
    rows = centres[random.integers(topics, size=num_rows)] + random.uniform(0.1, 0.8, (num_rows, 1)) * (
        random.standard_normal((num_rows, width))
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def slow_twin(audio_AD: np.ndarray, text_CD: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    exact_AC = audio_AD.astype(np.float64) @ text_CD.astype(np.float64).T
    rounded_AC = exact_AC.astype(np.float32)
    rows, columns = np.nonzero(rounded_AC >= np.float32(threshold))
    return [(int(i), int(j), float(rounded_AC[i, j])) for i, j in zip(rows, columns, strict=True)]


def as_list(found: tuple) -> list[tuple[int, int, float]]:
    return [(int(i), int(j), float(s)) for i, j, s in zip(*found, strict=True)]


def test_orthonormal_rows_match_themselves_alone():
    audio_index, caption_index, similarity = match_above(np.eye(8, dtype=np.float32), np.eye(8, dtype=np.float32), 0.5)
    assert audio_index.tolist() == caption_index.tolist() == list(range(8))
    assert similarity.tolist() == [1.0] * 8
    assert (audio_index.dtype, caption_index.dtype, similarity.dtype) == (np.int64, np.int64, np.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_pair_exactly_at_the_threshold_is_kept_and_one_step_below_is_not(precision):
    text = np.array([[1, 0, 0, 0]], np.float32)
    at = np.float32(0.75)
    below = np.nextafter(at, np.float32(0))
    audio = np.array([[s, np.sqrt(1 - float(s) ** 2), 0, 0] for s in (at, below)], np.float32)
    assert match_above(audio, text, 0.75, precision=precision)[0].tolist() == [0]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threshold", [0.9, 0.5, 0.0, -0.3, -1.0])
def test_every_precision_finds_the_pairs_of_the_slow_twin(precision, threshold):
    audio, text = unit_rows(67, 48, 1), unit_rows(53, 48, 2)
    found = as_list(match_above(audio, text, threshold, precision=precision, tile=(16, 24)))
    assert found == slow_twin(audio, text, threshold)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_projection_loses_no_pair(precision, monkeypatch):
    monkeypatch.setattr(sketches, "PROJECTION_PAYS_FROM", 0.0)
    monkeypatch.setattr(sketches, "RECHECK_COST", 0.0)
    audio, text = unit_rows(300, 256, 1), unit_rows(280, 256, 2)
    captions = PreparedCaptions(text, precision=precision, captions_per_tile=64)
    for threshold in (0.8, 0.3):
        assert as_list(match_above(audio, captions, threshold, tile=(128, 64))) == slow_twin(audio, text, threshold)
        assert captions._projection is not None
        assert captions._projection.basis.shape == (256, 16)


def test_a_projection_bounds_every_cosine_from_above():
    audio, text = torch.from_numpy(unit_rows(200, 128, 1)), torch.from_numpy(unit_rows(200, 128, 2))
    generator = torch.Generator().manual_seed(1)
    directions = sketches._leading_directions(audio[:50], 31, generator)
    turned = torch.linalg.qr(torch.randn(32, 32, generator=generator))[0]
    projection = sketches.Projection(directions @ turned[:-1], turned[-1])
    bound = projection(audio).double() @ projection(text).double().T
    assert bool((bound >= audio.double() @ text.double().T - 1e-5).all())


def test_rows_with_a_dominant_dimension_fall_back_from_int8_and_lose_nothing():
    random = np.random.default_rng(3)
    rows = random.standard_normal((80, 512)) / np.sqrt(512)
    rows[:, 7] = 3.0
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    captions = PreparedCaptions(rows, precision="int8")
    found = as_list(match_above(rows, captions, 0.9))
    assert found == slow_twin(rows, rows, 0.9)
    assert captions._blocks[0].precision != "int8"


def test_the_similarity_of_a_pair_is_the_same_to_the_bit_whatever_surrounds_it():
    audio, text = unit_rows(90, 100, 1), unit_rows(70, 100, 2)
    whole = as_list(match_above(audio, text, 0.4))
    assert whole
    for tile in [(1, 1), (7, 70), (90, 3)]:
        assert as_list(match_above(audio, text, 0.4, tile=tile)) == whole
    one_by_one = [(i, j, s) for i in range(90) for _, j, s in as_list(match_above(audio[i : i + 1], text, 0.4))]
    assert one_by_one == whole


def test_the_order_of_clips_and_captions_permutes_the_pairs_and_nothing_else():
    audio, text = unit_rows(60, 32, 1), unit_rows(50, 32, 2)
    random = np.random.default_rng(0)
    clips, captions = random.permutation(60), random.permutation(50)
    found = match_above(audio[clips], text[captions], 0.5)
    back = sorted((int(clips[i]), int(captions[j]), float(s)) for i, j, s in zip(*found, strict=True))
    assert back == as_list(match_above(audio, text, 0.5))


def test_number_of_threads_does_not_change_a_bit():
    audio, text = unit_rows(64, 300, 1), unit_rows(64, 300, 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = as_list(match_above(audio, text, 0.3))
        torch.set_num_threads(2)
        assert as_list(match_above(audio, text, 0.3)) == one
    finally:
        torch.set_num_threads(before)


def test_torch_in_gives_the_same_pairs_in_torch():
    audio, text = unit_rows(40, 64, 1), unit_rows(30, 64, 2)
    found = match_above(torch.from_numpy(audio), torch.from_numpy(text), 0.4)
    assert all(isinstance(part, torch.Tensor) for part in found)
    assert as_list(found) == as_list(match_above(audio, text, 0.4))


@pytest.mark.gpu
def test_cuda_gives_the_same_pairs():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    audio, text = unit_rows(2000, 512, 1), unit_rows(3000, 512, 2)
    expected = as_list(match_above(audio, text, 0.4))
    on_gpu = [torch.from_numpy(rows).cuda() for rows in (audio, text)]
    for precision in ("bf16", "fp32"):
        found = match_above(*on_gpu, 0.4, precision=precision)
        assert all(part.is_cuda for part in found)
        assert as_list(tuple(part.cpu() for part in found)) == expected


def test_read_only_and_memory_mapped_and_half_precision_rows_are_taken(tmp_path):
    audio, text = unit_rows(20, 64, 1), unit_rows(20, 64, 2)
    expected = as_list(match_above(audio, text, 0.4))
    np.save(tmp_path / "audio.npy", audio)
    mapped = np.load(tmp_path / "audio.npy", mmap_mode="r")
    audio.flags.writeable = False
    assert as_list(match_above(audio, text, 0.4)) == as_list(match_above(mapped, text, 0.4)) == expected
    half = text.astype(np.float16)
    assert as_list(match_above(audio, half, 0.4)) == slow_twin(audio, half.astype(np.float32), 0.4)


def test_chunks_are_tiles_and_hold_all_pairs():
    audio, text = unit_rows(50, 32, 1), unit_rows(40, 32, 2)
    chunks = list(match_tiles(audio, text, -1.0, tile=(10, 8)))
    assert [len(chunk[0]) for chunk in chunks] == [80] * 25
    assert sorted(pair for chunk in chunks for pair in as_list(chunk)) == as_list(match_above(audio, text, -1.0))


def test_prepared_captions_give_the_same_pairs_for_every_shard_and_threshold():
    audio, text = unit_rows(60, 32, 1), unit_rows(50, 32, 2)
    captions = PreparedCaptions(text)
    for threshold in (0.6, 0.2, 0.6):
        whole = as_list(match_above(audio, text, threshold))
        shards = [as_list(match_above(audio[start : start + 25], captions, threshold)) for start in (0, 25, 50)]
        assert [(i + 25 * n, j, s) for n, shard in enumerate(shards) for i, j, s in shard] == whole


def test_no_clips_or_no_captions_are_no_pairs():
    rows, none = unit_rows(4, 16, 1), np.zeros((0, 16), np.float32)
    for audio, text in [(rows, none), (none, rows), (none, none)]:
        assert [len(part) for part in match_above(audio, text, 0.5)] == [0, 0, 0]


def test_pair_similarity_is_the_exact_dot_product_rounded_once():
    audio, text = unit_rows(30, 77, 1), unit_rows(30, 77, 2)
    rows, columns = np.arange(30), np.arange(30)[::-1].copy()
    exact = (audio[rows].astype(np.float64) * text[columns].astype(np.float64)).sum(axis=1)
    np.testing.assert_array_equal(pair_similarity(audio, text, rows, columns), exact.astype(np.float32))


def test_too_many_pairs_are_refused_with_what_to_do():
    rows = unit_rows(50, 16, 1)
    with pytest.raises(DataError, match=r"threshold -1.0: more than 2000 pairs among 50 clips x 50 captions; raise"):
        match_above(rows, rows, -1.0, max_pairs=2000)


good = functools.partial(unit_rows, 4, 16)


@pytest.mark.parametrize(
    ("audio", "text", "threshold", "message"),
    [
        (good(1) * 2, good(2), 0.5, "audio embeddings: row 0 has length 2, expected 1"),
        (good(1), np.full((4, 16), np.nan, np.float32), 0.5, "text embeddings: row 0 has length nan"),
        (good(1), unit_rows(4, 8, 2), 0.5, "of one width, got audio 16 and text 8"),
        (good(1), good(2), 1.5, "threshold 1.5: a cosine lies between"),
        (good(1), good(2), float("nan"), "threshold nan"),
        (good(1)[0], good(2), 0.5, r"audio embeddings: expected a numpy or torch array \(rows, width\), got \(16,\)"),
        (good(1).astype(np.int32), good(2), 0.5, "audio embeddings: expected floating point numbers, got int32"),
        (torch.from_numpy(good(1)), good(2), 0.5, "both numpy or both torch"),
        ([[1.0]], good(2), 0.5, "got list"),
    ],
)
def test_wrong_input_is_named(audio, text, threshold, message):
    with pytest.raises(ValueError, match=message):
        match_above(audio, text, threshold)


def test_one_bad_row_far_down_is_found_by_its_number():
    rows = unit_rows(5000, 16, 1)
    rows[4321] = 0
    with pytest.raises(ValueError, match="row 4321 has length 0"):
        next(match_tiles(rows, rows, 0.5))


def test_prepared_captions_have_their_own_precision():
    with pytest.raises(ValueError, match="prepared captions have theirs"):
        match_above(good(1), PreparedCaptions(good(2)), 0.5, precision="fp32")


MEMORY_OF_A_LARGE_MATCH = """
import resource, sys
import numpy as np
from raysem.curation.matching import match_tiles
rows = np.random.default_rng(0).standard_normal((16000, 16))
rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
def match(count):
    pairs = sum(len(chunk[0]) for chunk in match_tiles(rows[:count], rows, 0.95))
    return pairs, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(few, before), (pairs, after) = match(1000), match(16000)
assert pairs > few >= 1000
sys.exit(after - before > 100_000)  # kB; the product of 16,000 x 16,000 has 1,000,000
"""


def test_memory_does_not_grow_with_the_product():
    assert subprocess.run([sys.executable, "-c", MEMORY_OF_A_LARGE_MATCH], check=False).returncode == 0


def test_best_precision_is_one_of_the_three():
    assert matching.best_precision("cpu") in PRECISIONS
