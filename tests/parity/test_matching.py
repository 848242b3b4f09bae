"""match_above against the naive numpy product and faiss range_search, with several tiles and with projections."""

import faiss
import numpy as np
import pytest

from raysem.curation import sketches
from raysem.curation.matching import best_precision, match_above

# float32 sums in another order may differ by this much from the exact value
LAST_DIGITS = 2e-6


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Rows around topics in a fading spectrum, as a teacher's embeddings: a projection pays."""
    random = np.random.default_rng(0)
    topics = random.standard_normal((40, 512)) * np.exp(-np.arange(512) / 40)
    made = []
    for count in (2500, 3100):
        row = topics[random.integers(40, size=count)] * random.uniform(0.4, 1.6, (count, 1))
        row += random.standard_normal((count, 512)) * 0.08
        made.append((row / np.linalg.norm(row, axis=1, keepdims=True)).astype(np.float32))
    return made[0], made[1]


def pairs_of(audio_index, caption_index, similarity) -> dict[tuple[int, int], float]:
    return {(int(i), int(j)): float(s) for i, j, s in zip(audio_index, caption_index, similarity, strict=True)}


def assert_same_pairs(found: dict, reference: dict, threshold: float) -> None:
    """The same pairs, but for those that the reference itself cannot tell from the threshold."""
    for pair in found.keys() ^ reference.keys():
        assert abs(found.get(pair, reference.get(pair)) - threshold) < LAST_DIGITS
    common = sorted(found.keys() & reference.keys())
    assert len(common) > 1000
    np.testing.assert_allclose([found[p] for p in common], [reference[p] for p in common], atol=LAST_DIGITS, rtol=0)


@pytest.mark.parametrize("precision", [None, "int8", "bf16", "fp32"])
@pytest.mark.parametrize("pays_from", [0.0, np.inf])
def test_pairs_equal_those_of_a_float32_product(rows, precision, pays_from, monkeypatch):
    monkeypatch.setattr(sketches, "PROJECTION_PAYS_FROM", pays_from)
    audio, text = rows
    product = audio @ text.T
    index = np.nonzero(product >= np.float32(0.75))
    found = match_above(audio, text, 0.75, precision=precision)
    assert_same_pairs(pairs_of(*found), pairs_of(*index, product[index]), 0.75)


def test_pairs_equal_those_of_a_float64_product_without_exception(rows):
    audio, text = rows
    product = (audio.astype(np.float64) @ text.astype(np.float64).T).astype(np.float32)
    index = np.nonzero(product >= np.float32(0.75))
    assert pairs_of(*match_above(audio, text, 0.75)) == pairs_of(*index, product[index])


def test_pairs_equal_those_of_faiss_range_search(rows):
    audio, text = rows
    index = faiss.IndexFlatIP(audio.shape[1])
    index.add(text)
    limits, similarity, caption_index = index.range_search(audio, 0.75)
    audio_index = np.repeat(np.arange(len(audio)), np.diff(limits.astype(np.int64)))
    found = match_above(audio, text, 0.75)
    assert_same_pairs(pairs_of(*found), pairs_of(audio_index, caption_index, similarity), 0.75)


def test_what_this_machine_prefers_is_known():
    assert best_precision("cpu") in sketches.PRODUCT_COST
