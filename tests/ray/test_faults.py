"""Faults of the stages that embed, match and select: each ends with the files of a run without the fault."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pytest

from raysem import storage
from raysem.corpora.shards import write_shards
from raysem.curation import ray_stages
from raysem.curation.match_shards import MatchShards
from raysem.curation.pair_shards import SelectShards, pool_facts, rank_pairs
from raysem.curation.ray_shards import make_shards, run_as_task
from raysem.curation.ray_stages import WorkerSettings, embed_captions, embed_clips
from raysem.curation.selection import SelectionSettings
from raysem.errors import DiskFullError
from raysem.ledger import DoneRecord, Ledger
from raysem.runs.launch import own_error
from raysem.tables import CLIPS, KEPT

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.timeout(600)]

FLOOR = -1.0  # a teacher that was never trained finds little alike


def tables_of(folder: Path, kinds: tuple[str, ...] = ("shards", "rejects")) -> dict[str, pa.Table]:
    """Every output of a stage by kind and name, its rows in their order."""
    ledger = Ledger(str(folder))
    files = [file for kind in kinds for file in ledger.files(kind)]
    return {file.removeprefix(str(folder)): storage.read_table(file) for file in files}


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file of a stage was written, and what is in it."""
    files = [file for kind in ("shards", "rejects", "done") for file in sorted((folder / kind).glob("*"))]
    return {str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


@pytest.fixture(scope="module")
def whole(pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool embedded, matched with its captions and selected, without a fault."""
    folder = tmp_path_factory.mktemp("whole")
    counts = embed_clips(pool.clips, pool.job(folder / "embed"))
    assert counts["outcomes"] == {KEPT: 60}
    embed_captions(pool.captions, pool.job(folder / "captions"))
    match(pool, folder, folder)
    select(pool, folder, folder)
    assert all(len(tables_of(folder / stage)) >= 5 for stage in ("embed", "scored", "match", "select"))
    assert all(len(table) for table in tables_of(folder / "select").values())
    return folder


def embed(pool: Any, whole: Path, output: Path) -> dict[str, Any]:
    return embed_clips(pool.clips, pool.job(output / "embed"))


def match(pool: Any, whole: Path, output: Path, work: Callable[..., Any] = MatchShards) -> dict[str, Any]:
    names = sorted(Ledger(str(whole / "embed")).records())
    arguments = {"clips": str(whole / "embed"), "captions": str(whole / "captions"), "floor": FLOOR}
    counts = make_shards(names, str(output / "scored"), work, arguments, what="match", workers=2)
    run_as_task(rank_pairs, str(output / "scored"), str(output / "match"), 20)
    return counts


def select(pool: Any, whole: Path, output: Path, work: Callable[..., Any] = SelectShards) -> dict[str, Any]:
    settings = SelectionSettings(similarity_threshold=FLOOR, cap_per_caption=20)
    pairs = str(whole / "match")
    arguments = {
        "pairs": pairs,
        "clips": {storage.name_of(file): file for file in pool.clips},
        "captions": pool.captions,
        "settings": settings,
        "facts": pool_facts(pairs, settings, None),
        "teacher": "fingerprint",
    }
    names = sorted(Ledger(pairs).records())
    return make_shards(names, str(output / "select"), work, arguments, what="select", workers=2)


def write_pool(folder: Path, pool: Any, paths: Mapping[str, str]) -> list[str]:
    """Twelve clips of the pool and, between them, clips that lie at `paths`; in shards of at most eight."""
    rows = storage.read_table(pool.clips[0]).to_pylist()
    for number, (clip_id, path) in enumerate(paths.items()):
        rows.insert(3 * number + 1, {"clip_id": clip_id, "audio": {"bytes": None, "path": path}})
    return write_shards([pa.Table.from_pylist(rows, schema=CLIPS)], str(folder), rows_per_shard=8).files


def outcomes_of(folder: Path) -> dict[str, tuple[str, str]]:
    tables = tables_of(folder, ("rejects",)).values()
    rows = [row for table in tables for row in table.to_pylist()]
    assert len({row["clip_id"] for row in rows}) == len(rows)
    return {row["clip_id"]: (row["outcome"], row["reason"]) for row in rows}


def test_clips_that_kill_their_decoder_are_rejected_and_all_others_are_as_without_them(pool: Any, tmp_path: Path):
    sound = tmp_path / "once.wav"
    sound.write_bytes(storage.read_table(pool.clips[1]).to_pylist()[0]["audio"]["bytes"])
    absent = str(tmp_path / "absent.wav")
    faulty = {"aborts": "faulty://abort/a", "segfaults": "faulty://segfault/b", "recovers": f"faulty://once{sound}"}
    harmless = {"aborts": absent, "segfaults": absent, "recovers": str(sound)}  # as many clips left in each batch
    counts = embed_clips(write_pool(tmp_path / "faulty", pool, faulty), pool.job(tmp_path / "out"))
    expected = embed_clips(write_pool(tmp_path / "harmless", pool, harmless), pool.job(tmp_path / "expected"))
    assert sound.with_suffix(".crashed").exists()
    assert counts["outcomes"] == {KEPT: 13, "crashed_decoder": 2}
    assert expected["outcomes"] == {KEPT: 13, "missing": 2}
    assert tables_of(tmp_path / "out", ("shards",)) == tables_of(tmp_path / "expected", ("shards",))
    found = outcomes_of(tmp_path / "out")
    assert {clip_id: outcome for clip_id, (outcome, _) in found.items()} == dict.fromkeys(
        ("aborts", "segfaults"), "crashed_decoder"
    )
    assert found["aborts"][1] == "faulty://abort/a: ended the process that decodes it with SIGABRT, 2 times"
    assert "SIGSEGV" in found["segfaults"][1]


def test_a_clip_without_end_holds_up_no_other(pool: Any, tmp_path: Path):
    workers = WorkerSettings(max_decode_tasks=2, max_decode_seconds=8)
    clips = write_pool(tmp_path / "clips", pool, {"endless": "faulty://hang/a"})
    counts = embed_clips(clips, pool.job(tmp_path / "out", workers=workers, clips_per_unit=2))
    absent = write_pool(tmp_path / "harmless", pool, {"endless": str(tmp_path / "absent.wav")})
    embed_clips(absent, pool.job(tmp_path / "expected", clips_per_unit=2))
    assert counts["outcomes"] == {KEPT: 12, "crashed_decoder": 1}
    reason = "faulty://hang/a: took longer than 8 s to decode"
    assert outcomes_of(tmp_path / "out") == {"endless": ("crashed_decoder", reason)}
    assert tables_of(tmp_path / "out", ("shards",)) == tables_of(tmp_path / "expected", ("shards",))


def test_decoding_is_no_part_of_an_actor_even_where_both_ask_for_the_same():
    for cpus in range(1, 65):
        for embedders in range(1, 33):
            workers = ray_stages.plan_workers(WorkerSettings(embed_workers=embedders), {"CPU": float(cpus)})
            assert workers.num_cpus != workers.decode_cpus
            assert workers.count * workers.num_cpus <= 0.4 * cpus + 1e-9


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("is dead")


def test_an_embedder_that_is_killed_in_the_middle_changes_nothing(
    pool: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original, mark = ray_stages._Embedder, tmp_path / "died"

    class DiesOnce(original):  # type: ignore[misc, valid-type]
        def _embed_waveforms(self, row: dict[str, Any]) -> np.ndarray:
            if row["shard"] == "shard_00002" and not mark.exists():
                mark.touch()
                die()
            return super()._embed_waveforms(row)

    monkeypatch.setattr(ray_stages, "_Embedder", DiesOnce)
    counts = embed(pool, whole, tmp_path)
    assert mark.exists()
    assert (counts["rows"], counts["outcomes"]) == (60, {KEPT: 60})
    assert tables_of(tmp_path / "embed") == tables_of(whole / "embed")


def test_a_collector_that_is_killed_between_a_file_and_its_record_changes_nothing(
    pool: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original, mark = ray_stages.Collector, tmp_path / "died"

    class DyingLedger(Ledger):
        def finish(self, record: DoneRecord, tables: Mapping[str, pa.Table]) -> DoneRecord:
            if record.shard == "shard_00001" and not mark.exists():
                storage.write_table(self.file_of(record.shard), tables["shards"].slice(1))
                mark.touch()
                die()
            return super().finish(record, tables)

    class DiesOnce(original):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **named: Any):
            super().__init__(*arguments, **named)
            self._ledger = DyingLedger(self._ledger.folder)

    monkeypatch.setattr(ray_stages, "Collector", DiesOnce)
    counts = embed(pool, whole, tmp_path)
    assert mark.exists()
    assert (counts["rows"], counts["outcomes"]) == (60, {KEPT: 60})
    assert tables_of(tmp_path / "embed") == tables_of(whole / "embed")


@pytest.mark.parametrize(("stage", "work", "made"), [(match, MatchShards, "scored"), (select, SelectShards, "select")])
def test_an_actor_that_is_killed_with_a_shard_in_hand_changes_nothing(
    pool: Any, whole: Path, tmp_path: Path, stage: Callable[..., dict[str, Any]], work: Any, made: str
):
    mark = tmp_path / "died"

    class DiesOnce(work):
        def __call__(self, shard: str) -> tuple[DoneRecord, dict[str, pa.Table]]:
            done = super().__call__(shard)
            if shard == "shard_00002" and not mark.exists():
                mark.touch()
                die()
            return done

    counts = stage(pool, whole, tmp_path, DiesOnce)
    assert mark.exists()
    assert counts["shards"] == 5
    for folder in {made, stage.__name__}:
        assert tables_of(tmp_path / folder) == tables_of(whole / folder)


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)


def flip_a_count(file: Path) -> None:
    """One bit of the number of rows: as good a record as before, of another shard."""
    content = file.read_bytes()
    at = content.index(b'"rows": ') + len(b'"rows": ')
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def cut_in_half(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(("stage", "made"), [(embed, "embed"), (match, "scored"), (match, "match"), (select, "select")])
def test_exactly_the_damaged_shards_are_made_again(
    pool: Any, whole: Path, tmp_path: Path, stage: Callable[..., dict[str, Any]], made: str
):
    stage(pool, whole, tmp_path)
    folder = tmp_path / made
    before, tables = files_of(folder), tables_of(folder)
    flip_a_byte(folder / "shards" / "shard_00000.parquet")
    flip_a_count(folder / "done" / "shard_00001.json")
    cut_in_half(folder / "done" / "shard_00002.json")
    spoilt = 3
    if (folder / "rejects").exists():
        flip_a_byte(folder / "rejects" / "shard_00003.parquet")
        spoilt = 4
    stage(pool, whole, tmp_path)
    after = files_of(folder)
    assert tables_of(folder) == tables == tables_of(whole / made)
    assert {name: content for name, (_, content) in after.items() if "done" not in name} == {
        name: content for name, (_, content) in before.items() if "done" not in name
    }
    if made != "match":  # ranking is one pass over all shards, to the same bytes
        again = {Path(name).stem for name in after if after[name] != before[name]}
        assert again == {f"shard_0000{number}" for number in range(spoilt)}
    assert sorted(Ledger(str(folder)).records(verify=True)) == [f"shard_0000{number}" for number in range(5)]


def test_a_disk_that_is_full_ends_in_one_line_and_the_same_call_goes_on_after_space_is_made(
    pool: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original, full = ray_stages.Collector, tmp_path / "full"
    full.touch()

    class FullDisk(original):  # type: ignore[misc, valid-type]
        """Its files go to the device that is always full, from the third shard on."""

        def _write(self, shard: str, units: list[dict[str, Any]]) -> dict[str, Any]:
            if full.exists() and len(self._ledger.records()) == 2:
                on_disk = Path.open
                Path.open = lambda file, *mode: on_disk(  # type: ignore[method-assign, assignment]
                    Path("/dev/full") if file.name.endswith(".partial") else file, *mode
                )
            return super()._write(shard, units)

    with monkeypatch.context() as patched:
        patched.setattr(ray_stages, "Collector", FullDisk)
        with pytest.raises(Exception, match="disk is full") as caught:
            embed(pool, whole, tmp_path)
    found = own_error(caught.value)
    assert type(found) is DiskFullError
    assert re.match(rf"{tmp_path}/embed/\S+: the disk is full; make space", str(found))
    folder = tmp_path / "embed"
    kept = files_of(folder)
    assert len(Ledger(str(folder)).records(verify=True)) == 2
    assert {Path(name).stem for name in kept} == set(Ledger(str(folder)).records())
    full.unlink()
    assert embed(pool, whole, tmp_path)["outcomes"] == {KEPT: 60}
    after = files_of(folder)
    assert {name: after[name] for name in kept} == kept
    assert tables_of(folder) == tables_of(whole / "embed")
