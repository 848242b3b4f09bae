import numpy as np
import pytest

from raysem.curation.deduplication import (
    content_hash,
    exact_duplicates,
    near_duplicate_captions,
    near_duplicates,
    normalise_text,
)


def unit_rows(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_the_first_of_equal_keys_stays():
    found = exact_duplicates(["a", "b", "a", "a", "c", "b"])
    assert found.keep_A.tolist() == [True, True, False, False, True, False]
    assert found.duplicate_of_A.tolist() == [-1, -1, 0, 0, -1, 1]


def test_equal_bytes_have_equal_hashes():
    assert content_hash(b"abc") == content_hash(bytes([97, 98, 99])) != content_hash(b"abd")


def test_near_duplicates_equal_the_slow_twin():
    random = np.random.default_rng(0)
    rows = unit_rows(random.standard_normal((60, 8))[random.integers(60, size=150)] + random.normal(0, 0.05, (150, 8)))
    found = near_duplicates(rows, epsilon=0.02)
    cosine = (rows.astype(np.float64) @ rows.astype(np.float64).T).astype(np.float32)
    assert 0 < found.keep_A.sum() < 150
    for item in range(150):
        earlier = cosine[item, :item]
        if len(earlier) and earlier.max() > np.float32(0.98):
            assert found.duplicate_of_A[item] == earlier.argmax()
            assert found.similarity_A[item] == earlier.max()
            assert not found.keep_A[item]
        else:
            assert found.duplicate_of_A[item] == -1
            assert found.keep_A[item]


def test_of_a_chain_of_near_duplicates_the_first_stays():
    angles = np.radians([0, 5, 10, 15, 90])
    rows = unit_rows(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert near_duplicates(rows, epsilon=0.01).keep_A.tolist() == [True, False, False, False, True]


def test_clusters_find_the_copies_within_them():
    random = np.random.default_rng(1)
    originals = unit_rows(random.standard_normal((200, 16)))
    found = near_duplicates(np.concatenate([originals, originals]), epsilon=0.001, num_clusters=5)
    assert found.keep_A.tolist() == [True] * 200 + [False] * 200
    assert found.duplicate_of_A[200:].tolist() == list(range(200))


def test_no_items_have_no_duplicates():
    assert near_duplicates(np.zeros((0, 4), np.float32)).keep_A.tolist() == []
    assert near_duplicate_captions([]).keep_A.tolist() == []


def test_epsilon_is_a_distance():
    with pytest.raises(ValueError, match="epsilon 0"):
        near_duplicates(np.eye(2, dtype=np.float32), epsilon=0)


def test_captions_that_differ_in_case_spaces_and_marks_are_one():
    assert normalise_text("  A dog\tbarks, loudly!") == normalise_text("a DOG barks loudly") == "a dog barks loudly"
    assert normalise_text("ｄｏｇ") == "dog"
    assert normalise_text("!?") == ""


def test_near_captions_are_found_with_their_jaccard_similarity():
    texts = [
        "a dog barks loudly in the park",
        "A dog barks loudly in the park.",
        "a dog barks loudly in a park",
        "rain",
    ]
    found = near_duplicate_captions(texts, threshold=0.6)
    assert found.keep_A.tolist() == [True, False, False, True]
    assert found.duplicate_of_A.tolist() == [-1, 0, 0, -1]
    assert found.similarity_A[1] == 1.0

    def shingles(text):
        return {text[i : i + 4] for i in range(len(text) - 3)}

    a, b = shingles(texts[0]), shingles(texts[2])
    assert found.similarity_A[2] == pytest.approx(len(a & b) / len(a | b))
    assert near_duplicate_captions(texts, threshold=0.95).keep_A.tolist() == [True, False, True, True]


def test_captions_found_by_minhash_equal_the_slow_twin_and_any_seed():
    random = np.random.default_rng(3)
    words = ["dog", "rain", "siren", "engine", "bell", "loud", "quiet", "street", "far", "near"]
    texts = [" ".join(random.choice(words, 5)) for _ in range(200)]
    found = near_duplicate_captions(texts, threshold=0.85)

    def shingles(text):
        return {text[i : i + 4] for i in range(len(text) - 3)}

    kept: list[int] = []
    for position, text in enumerate(texts):
        own = shingles(text)
        near = [
            other for other in kept if len(own & shingles(texts[other])) / len(own | shingles(texts[other])) >= 0.85
        ]
        if not near:
            kept.append(position)
    assert np.flatnonzero(found.keep_A).tolist() == kept
    assert 0 < len(kept) < 200
    np.testing.assert_array_equal(near_duplicate_captions(texts, threshold=0.85, seed=9).keep_A, found.keep_A)


def test_empty_captions_are_duplicates_of_each_other():
    assert near_duplicate_captions(["", "...", "a"]).keep_A.tolist() == [True, False, True]


def test_a_caption_threshold_is_a_share():
    with pytest.raises(ValueError, match="threshold 0"):
        near_duplicate_captions(["a"], threshold=0)
