from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raysem.runs.resource_estimate import (
    COMPRESSED,
    DECODE_COPIES,
    EMBED_COPIES,
    ID_BYTES,
    LONG_CLIP_CROPS,
    MATRIX_PEAK,
    NEIGHBOUR_BYTES,
    SEARCH_CHUNK_ROWS,
    WORKER_BYTES,
    Machine,
    Need,
    Training,
    Work,
    disk_need,
    estimate,
    memory_needs,
    size,
)

GIB = 2**30
NOTHING = Work(
    clips=1000, shards=4, rows_per_shard=250, captions=500, embedding_width=256, embeddings_left=0, crop_samples=80_000,
    num_crops=2, clips_per_unit=32, activation_bytes=10**6, embedders=1, decoders=3, matches=False, neighbours=0,
    exact_neighbours=True, screens=False,
)  # fmt: skip
LARGE = Machine(
    free_disk_bytes=500 * GIB, memory_bytes=64 * GIB, available_bytes=60 * GIB, cpus=4, object_store_bytes=GIB
)


def only_need(machine: Machine = LARGE, **changes: Any) -> Need:
    (need,) = memory_needs(replace(NOTHING, **changes), machine)
    return need


def test_where_nothing_is_left_nothing_is_needed():
    found = estimate(NOTHING, LARGE)
    assert (found.lines, found.warnings, found.refusals) == ([], [], [])


def test_the_disk_holds_embeddings_and_lists_of_neighbours():
    need = disk_need(replace(NOTHING, embeddings_left=10_000, neighbours=10))
    assert need.at_least == pytest.approx(COMPRESSED * 10_000 * 4 * 256)
    assert need.at_most == 10_000 * (4 * 256 + ID_BYTES) + (1000 + 500) * 10 * NEIGHBOUR_BYTES


def test_each_matching_worker_holds_the_captions():
    need = only_need(matches=True)
    assert need.at_least == 4 * 500 * 4 * 256
    assert need.at_most == 4 * (MATRIX_PEAK * 500 * 4 * 256 + WORKER_BYTES)


@pytest.mark.parametrize(("shards", "cpus", "workers"), [(4, 16, 4), (40, 16, 16), (400, 200, 64), (4, None, 1)])
def test_matching_has_a_worker_a_shard_and_cpu_and_64_at_most(shards: int, cpus: int | None, workers: int):
    machine = replace(LARGE, cpus=cpus)
    assert only_need(machine, matches=True, shards=shards).at_least == workers * 500 * 4 * 256


def test_neighbours_search_a_chunk_of_the_captions_or_an_index_of_half_their_size():
    captions = 100_000
    exact = only_need(neighbours=10, captions=captions)
    assert exact.at_least == 4 * captions * 4 * 256
    chunk = SEARCH_CHUNK_ROWS * 4 * 256
    assert exact.at_most == 4 * (MATRIX_PEAK * captions * 4 * 256 + chunk + WORKER_BYTES)
    assert only_need(neighbours=10, captions=captions, exact_neighbours=False).at_least == exact.at_least / 2


def test_screening_holds_the_pool_at_once():
    assert only_need(screens=True).at_least == 1000 * 4 * 256


def test_a_unit_is_copied_by_every_task_at_work():
    need = only_need(embeddings_left=1)
    unit = 32 * 2 * 80_000 * 4
    layers = 3 * 32 * 2 * 10**6
    assert need.at_least == DECODE_COPIES * unit / 2
    assert need.at_most == 3 * (DECODE_COPIES * unit + WORKER_BYTES) + EMBED_COPIES * unit + layers + WORKER_BYTES + GIB
    small = only_need(embeddings_left=1, rows_per_shard=8)
    assert small.at_least == need.at_least / 4, "a unit has no more clips than a shard"
    few = only_need(embeddings_left=1, shards=1, clips=32, decoders=100, embedders=50)
    assert few == only_need(embeddings_left=1, decoders=1, embedders=1), (
        "a worker has a unit to work on, or is not there"
    )


def training(**changes: Any) -> Training:
    base = Training(
        name="student", workers=2, clips=100, crop_samples=80_000, cache_bytes=GIB, table_bytes=50, text_cache_bytes=7
    )
    return replace(base, **changes)


def test_a_cache_is_filled_by_the_clips_there_are():
    crops = 100 * 80_000 * 4
    need = only_need(trainings=(training(),))
    assert need.at_least == 2 * crops
    assert need.at_most == 2 * (LONG_CLIP_CROPS * crops + 50 + 7 + WORKER_BYTES)
    many = only_need(trainings=(training(clips=10**6),))
    assert (many.at_least, many.at_most) == (2 * GIB, 2 * (GIB + 50 + 7 + WORKER_BYTES))


def test_what_cannot_fit_is_refused_with_the_key_to_change():
    captions = 20_000_000  # 19 GiB of them in each of four workers
    (refusal,) = estimate(replace(NOTHING, matches=True, captions=captions), LARGE).refusals
    assert refusal.startswith("cluster.local_cpus: lower it for fewer workers, or take fewer captions")
    assert refusal.endswith("matching, 20,000,000 captions in each of 4 workers, 76.3 GiB at least, 64.0 GiB are there")
    (refusal,) = estimate(replace(NOTHING, embeddings_left=10**9), LARGE).refusals
    assert refusal.startswith("--output: take a larger disk, or less of corpora.wild (share): 1,000,000,000 embeddings")
    trainings = (training(name="teacher", clips=10**9, cache_bytes=40 * GIB),)
    (refusal,) = estimate(replace(NOTHING, trainings=trainings), LARGE).refusals
    assert refusal.startswith("teacher.training.cache_mib: lower it")


def test_what_may_not_fit_is_a_warning():
    found = estimate(replace(NOTHING, screens=True, clips=30_000_000), LARGE)
    assert found.refusals == []
    (warning,) = found.warnings
    assert warning.startswith("curation.duplicate_similarity, curation.exclude_overlap_similarity: null leaves it out")
    assert warning.endswith("up to 72.1 GiB, 60.0 GiB are there")


def test_of_a_cluster_elsewhere_only_the_disk_is_judged():
    elsewhere = Machine(free_disk_bytes=GIB)
    found = estimate(replace(NOTHING, matches=True, screens=True, clips=10**9, captions=10**9), elsewhere)
    assert (found.warnings, found.refusals) == ([], [])
    assert len(found.lines) == 2
    assert len(estimate(replace(NOTHING, embeddings_left=10**9), elsewhere).refusals) == 1
    assert estimate(replace(NOTHING, embeddings_left=10**9), Machine()).refusals == []


def test_workers_that_will_idle_are_counted():
    found = estimate(replace(NOTHING, matches=True), replace(LARGE, cpus=16))
    assert found.lines[-1] == "workers: 4 shards for matching on 16 CPUs, 12 will idle"
    assert found.warnings == [], "half a million pairs are matched in no time"
    found = estimate(replace(NOTHING, matches=True, captions=10**6), replace(LARGE, cpus=16))
    assert found.warnings == [f"corpora.rows_per_shard: lower it; {found.lines[-1]}"]
    found = estimate(replace(NOTHING, embeddings_left=1, embedders=40), LARGE)
    assert found.warnings[0].startswith("cluster.embedding.embed_workers: 40 for 32 units of 32 clips, 8 will idle")


def test_an_object_store_has_room_for_two_units():
    unit = 32 * 2 * 80_000 * 4
    assert estimate(replace(NOTHING, embeddings_left=1), replace(LARGE, object_store_bytes=2 * unit)).warnings == []
    (warning,) = estimate(replace(NOTHING, embeddings_left=1), replace(LARGE, object_store_bytes=unit)).warnings
    assert warning.startswith("cluster.object_store_mib: two units of 32 clips are 39 MiB, the object store has 20 MiB")


def test_the_block_of_lines_says_what_the_machine_has_once():
    work = replace(NOTHING, embeddings_left=10, matches=True, screens=True)
    lines = estimate(work, LARGE).lines
    assert [line.split(",")[0].split(" ")[0] for line in lines] == ["disk:", "memory:", "memory:", "memory:"]
    assert sum("this machine has 64.0 GiB, 60.0 GiB of it free" in line for line in lines) == 1


def test_sizes_are_told_in_the_unit_that_suits():
    assert (size(3 * 2**20), size(1.5 * GIB)) == ("3 MiB", "1.5 GiB")
