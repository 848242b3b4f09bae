import numpy as np
import pytest

from raysem.curation.neighbours import (
    NeighbourSettings,
    NeighbourTable,
    build_index,
    exact_neighbours,
    merge_neighbours,
    recall_of,
)


def unit_rows(num_rows: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def slow_twin(query: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    similarity = (query.astype(np.float64) @ rows.astype(np.float64).T).astype(np.float32)
    return np.array([sorted(range(len(rows)), key=lambda j: (-line[j], j))[:k] for line in similarity])


def test_each_basis_vector_is_its_own_nearest_neighbour():
    index = build_index(lambda: [np.eye(5, dtype=np.float32)])
    table = index.search(np.eye(5, dtype=np.float32), 1)
    assert table.index_QK.ravel().tolist() == list(range(5))
    assert table.similarity_QK.ravel().tolist() == [1.0] * 5
    assert (index.is_exact, index.recall, len(index)) == (True, 1.0, 5)


def test_exact_neighbours_equal_the_slow_twin_however_the_rows_are_cut():
    query, rows = unit_rows(7, 24, 0), unit_rows(60, 24, 1)
    expected = exact_neighbours(query, [rows], 6)
    np.testing.assert_array_equal(expected.index_QK, slow_twin(query, rows, 6))
    for cuts in ([1, 2, 3], [30], [0, 59, 60]):
        table = exact_neighbours(query, np.split(rows, cuts), 6)
        np.testing.assert_array_equal(table.index_QK, expected.index_QK)
        np.testing.assert_array_equal(table.similarity_QK, expected.similarity_QK)
    np.testing.assert_array_equal(build_index(lambda: np.split(rows, [9])).search(query, 6).index_QK, expected.index_QK)


def test_tables_of_disjoint_rows_merge_exactly_in_any_order():
    query, rows = unit_rows(5, 16, 0), unit_rows(40, 16, 1)
    tables = []
    for start in (0, 15, 25):
        part = exact_neighbours(query, [rows[start : {0: 15, 15: 25, 25: 40}[start]]], 4)
        tables.append(NeighbourTable(part.index_QK + start, part.similarity_QK))
    expected = exact_neighbours(query, [rows], 4)
    for order in ([0, 1, 2], [2, 0, 1]):
        merged = merge_neighbours([tables[i] for i in order], 4)
        np.testing.assert_array_equal(merged.index_QK, expected.index_QK)
        np.testing.assert_array_equal(merged.similarity_QK, expected.similarity_QK)


def test_equal_rows_are_ordered_by_their_index():
    rows = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
    assert exact_neighbours(rows[:1], [rows[:2], rows[2:]], 4).index_QK.tolist() == [[0, 1, 2, 3]]


def test_more_neighbours_than_rows_gives_all_rows():
    rows = unit_rows(3, 8, 0)
    assert build_index(lambda: [rows]).search(rows, 10).index_QK.shape == (3, 3)
    assert exact_neighbours(rows, [rows], 10).index_QK.shape == (3, 3)


def test_beyond_the_stated_size_lists_are_inverted_and_their_recall_is_measured():
    rows = unit_rows(1000, 16, 0)
    settings = NeighbourSettings(exact_up_to=500, num_lists=8, lists_per_query=8, recall_queries=50)
    index = build_index(lambda: np.split(rows, 4), settings)
    assert not index.is_exact
    assert index.recall > 0.95  # all lists are visited: only float16 is left to differ
    poor = build_index(lambda: np.split(rows, 4), settings.model_copy(update={"lists_per_query": 1}))
    assert poor.recall < index.recall
    found = index.search(rows[:20], 5)
    assert recall_of(found, exact_neighbours(rows[:20], [rows], 5)) > 0.9


def test_poor_recall_is_warned_of(caplog):
    rows = unit_rows(1000, 16, 0)
    settings = NeighbourSettings(exact_up_to=1, num_lists=40, lists_per_query=1, min_recall=0.99)
    build_index(lambda: [rows], settings)
    assert "is below 0.990; raise lists_per_query" in caplog.text


def test_the_mean_similarity_leaves_absent_neighbours_out():
    table = NeighbourTable(np.array([[3, 1], [2, -1], [-1, -1]]), np.array([[0.8, 0.4], [0.5, -np.inf], [-np.inf] * 2]))
    np.testing.assert_allclose(table.mean_similarity(), [0.6, 0.5, 0.0])


def test_wrong_input_is_named():
    rows = unit_rows(4, 8, 0)
    with pytest.raises(ValueError, match="no rows to index"):
        build_index(lambda: [])
    with pytest.raises(ValueError, match="rows 4 onward have width 6, those before 8"):
        build_index(lambda: [rows, unit_rows(2, 6, 0)])
    with pytest.raises(ValueError, match=r"expected rows of width 8, got \(1, 5\)"):
        build_index(lambda: [rows]).search(unit_rows(1, 5, 0), 1)
    with pytest.raises(ValueError, match="k = 0"):
        build_index(lambda: [rows]).search(rows, 0)
    with pytest.raises(ValueError, match="row 2 is not finite"):
        build_index(lambda: [np.where(np.arange(4)[:, None] == 2, np.nan, rows)])
    with pytest.raises(ValueError, match="tables for different queries"):
        merge_neighbours([exact_neighbours(rows, [rows], 1), exact_neighbours(rows[:2], [rows], 1)], 1)
