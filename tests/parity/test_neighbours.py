"""Nearest neighbours against scikit-learn's brute force."""

import numpy as np
import pytest

from raysem.curation.neighbours import NeighbourSettings, build_index, exact_neighbours, recall_of


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    random = np.random.default_rng(0)
    rows = random.standard_normal((50, 64))[random.integers(50, size=3000)] + random.normal(0, 0.5, (3000, 64))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_exact_tables_equal_sklearn(rows):
    neighbors = pytest.importorskip("sklearn.neighbors")
    search = neighbors.NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(rows.astype(np.float64))
    distance, expected = search.kneighbors(rows[:200].astype(np.float64))
    for table in (
        build_index(lambda: np.split(rows, 3)).search(rows[:200], 10),
        exact_neighbours(rows[:200], np.split(rows, [17, 1700]), 10),
    ):
        np.testing.assert_allclose(table.similarity_QK, 1 - distance, atol=1e-6)
        # float32 cannot order neighbours whose cosines agree to its last digit
        gaps = np.diff(distance, axis=1, append=np.inf).min(axis=1) > 1e-6
        assert gaps.mean() > 0.9
        np.testing.assert_array_equal(table.index_QK[gaps], expected[gaps])


def test_measured_recall_is_the_recall(rows):
    settings = NeighbourSettings(exact_up_to=100, num_lists=50, lists_per_query=4, recall_queries=500)
    index = build_index(lambda: np.split(rows, 3), settings)
    found, exact = index.search(rows, 10), exact_neighbours(rows, [rows], 10)
    assert index.recall == pytest.approx(recall_of(found, exact), abs=0.05)
    assert index.recall > 0.7
