"""Embedding on Ray: equal to a plain loop, whatever the units, the workers and the attempts that died before."""

from __future__ import annotations

import io
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from raysem import storage
from raysem.audio.crops import even_crops
from raysem.audio.decode import DecodeLimits
from raysem.audio.load import AudioSettings, load_clip
from raysem.corpora.broken import write_broken_clips
from raysem.corpora.shards import write_shards
from raysem.curation import ray_stages
from raysem.curation.embeddings import read_embeddings
from raysem.curation.ray_stages import WorkerSettings, embed_captions, embed_clips
from raysem.errors import DataError, StageError
from raysem.ledger import Ledger
from raysem.models.teacher import load_teacher
from raysem.runs.launch import own_error
from raysem.tables import CLIPS, KEPT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def embeddings_of(folder: Path) -> dict[str, np.ndarray]:
    ids, matrix_ND = read_embeddings(str(folder))
    return dict(zip(ids.to_pylist(), matrix_ND, strict=True))


def tables_of(folder: Path) -> dict[str, pa.Table]:
    ledger = Ledger(str(folder))
    files = [file for kind in ("shards", "rejects") for file in ledger.files(kind)]
    return {file.removeprefix(str(folder)): storage.read_table(file) for file in files}


def written_at(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (folder / "shards").glob("*.parquet")}


@pytest.fixture(scope="module")
def whole(pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool embedded by one uninterrupted attempt."""
    folder = tmp_path_factory.mktemp("whole")
    counts = embed_clips(pool.clips, pool.job(folder))
    assert (counts["shards"], counts["rows"], counts["outcomes"]) == (5, 60, {KEPT: 60})
    return folder


@pytest.fixture(scope="module")
def captions(pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The captions of the pool, embedded."""
    folder = tmp_path_factory.mktemp("captions")
    counts = embed_captions(pool.captions, pool.job(folder), captions_per_unit=7)
    assert (counts["rows"], counts["outcomes"]) == (20, {KEPT: 20})
    return folder


def test_a_pool_through_ray_equals_the_plain_loop(pool: Any, whole: Path, captions: Path):
    model = load_teacher(pool.teacher)
    found = embeddings_of(whole)
    numbers_of_crops = set()
    for file in pool.clips:
        for row in storage.read_table(file).to_pylist():
            samples_T = load_clip(row["audio"]["bytes"], None, settings=pool.audio)
            crops_NT = even_crops(samples_T, pool.crop_samples, 3)
            numbers_of_crops.add(len(crops_NT))
            mean_D = model.embed_waveforms(crops_NT).mean(axis=0)
            np.testing.assert_allclose(found.pop(row["clip_id"]), mean_D / np.linalg.norm(mean_D), atol=1e-6)
    assert not found
    assert numbers_of_crops == {1, 3}
    table = storage.read_table(pool.captions[0])
    texts = model.embed_texts(table["text"].to_pylist())
    by_id = embeddings_of(captions)
    np.testing.assert_allclose(np.stack([by_id[key] for key in table["caption_id"].to_pylist()]), texts, atol=1e-6)
    schema = storage.read_table(Ledger(str(whole)).files()[0]).schema
    assert (schema.names, schema.field("embedding").type) == (["clip_id", "embedding"], pa.list_(pa.float32(), 32))
    assert schema.metadata == {b"model": b"test"}


@pytest.mark.parametrize(
    ("clips_per_unit", "embed_workers", "decode_tasks"),
    [(1, 1, None), (32, 1, 1), (8, 2, None)],
)
def test_similarities_depend_neither_on_the_units_nor_on_the_workers(
    pool: Any,
    whole: Path,
    captions: Path,
    tmp_path: Path,
    clips_per_unit: int,
    embed_workers: int,
    decode_tasks: int | None,
):
    workers = WorkerSettings(embed_workers=embed_workers, max_decode_tasks=decode_tasks)
    embed_clips(pool.clips, pool.job(tmp_path, workers=workers, clips_per_unit=clips_per_unit))
    text_CD = read_embeddings(str(captions))[1]
    found, expected = embeddings_of(tmp_path), embeddings_of(whole)
    assert list(found) == list(expected)
    difference = np.stack(list(found.values())) @ text_CD.T - np.stack(list(expected.values())) @ text_CD.T
    assert np.abs(difference).max() <= 1e-6


@pytest.mark.fault
def test_only_shards_without_a_sound_record_are_made_again(
    pool: Any, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    embed_clips(pool.clips, pool.job(tmp_path))
    before = written_at(tmp_path)
    (tmp_path / "done" / "shard_00000.json").unlink()
    (tmp_path / "shards" / "shard_00001.parquet").unlink()
    flipped = tmp_path / "shards" / "shard_00002.parquet"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    with caplog.at_level("INFO", logger="raysem"):
        counts = embed_clips(pool.clips, pool.job(tmp_path))
    assert counts["outcomes"] == {KEPT: 60}
    assert "2 of 5 shards were finished by an earlier attempt" in caplog.text
    after = written_at(tmp_path)
    made_again = {name for name in after if after[name] != before.get(name)}
    assert made_again == {f"shard_0000{number}.parquet" for number in range(3)}
    assert tables_of(tmp_path) == tables_of(whole)


@pytest.mark.fault
def test_an_attempt_that_dies_keeps_its_finished_shards(
    pool: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = ray_stages._Embedder

    class Failing(original):  # type: ignore[misc, valid-type]
        """Fails at the fourth shard, as a model that runs out of memory would."""

        def __call__(self, unit: pa.Table) -> pa.Table:
            if unit["shard"][0].as_py() == "shard_00003":
                raise StageError("no memory left")
            return super().__call__(unit)

    with monkeypatch.context() as patched:
        patched.setattr(ray_stages, "_Embedder", Failing)
        job = pool.job(tmp_path, workers=WorkerSettings(max_decode_tasks=1))  # one at a time: shards come in order
        with pytest.raises(Exception, match="no memory left") as caught:
            embed_clips(pool.clips, job)
    found = own_error(caught.value)
    assert type(found) is StageError
    assert str(found) == "no memory left"
    kept = written_at(tmp_path)
    assert kept
    assert "shard_00003.parquet" not in kept
    embed_clips(pool.clips, pool.job(tmp_path))
    after = written_at(tmp_path)
    assert {name: after[name] for name in kept} == kept
    assert tables_of(tmp_path) == tables_of(whole)


@pytest.mark.fault
def test_shards_of_a_collector_that_died_are_made_in_another_round(
    pool: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    original, marker = ray_stages.Collector, tmp_path / "died"

    class DiesOnce(original):  # type: ignore[misc, valid-type]
        def _write(self, shard: str, units: list[dict[str, Any]]) -> dict[str, Any]:
            if shard == "shard_00002" and not marker.exists():
                marker.touch()
                os._exit(1)
            return super()._write(shard, units)

    monkeypatch.setattr(ray_stages, "Collector", DiesOnce)
    with caplog.at_level("WARNING", logger="raysem"):
        counts = embed_clips(pool.clips, pool.job(tmp_path / "out"))
    assert marker.exists()
    assert counts["outcomes"] == {KEPT: 60}
    assert "came back unfinished" in caplog.text
    assert tables_of(tmp_path / "out") == tables_of(whole)


def sound_clips(count: int) -> list[dict[str, Any]]:
    """Half a second of noise each, as bytes in the table."""
    rng = np.random.default_rng(5)
    rows = []
    for index in range(count):
        buffer = io.BytesIO()
        soundfile.write(buffer, 0.1 * rng.standard_normal(4000), 8000, format="WAV", subtype="PCM_16")
        rows.append({"clip_id": f"sound_{index:04d}", "audio": {"bytes": buffer.getvalue(), "path": None}})
    return rows


def test_two_hundred_broken_files_among_a_thousand_become_two_hundred_rejects(pool: Any, tmp_path: Path):
    broken = write_broken_clips(str(tmp_path / "broken"), 200, 7, longest_seconds=5.0)
    rows = sound_clips(800)
    expected = {}
    for index, clip in enumerate(broken):
        clip_id = f"{'sound' if index % 2 else 'zzz'}_{index:04d}_broken"  # some among the others, some in a row
        expected[clip_id] = clip.outcome
        rows.append({"clip_id": clip_id, "audio": {"bytes": None, "path": clip.path}})
    shards = write_shards([pa.Table.from_pylist(rows, schema=CLIPS)], str(tmp_path / "clips"), rows_per_shard=250)
    audio = AudioSettings(sample_rate=8000, limits=DecodeLimits(max_duration_seconds=5.0))
    job = replace(pool.job(tmp_path / "out", clips_per_unit=32), audio=audio)
    counts = embed_clips(shards.files, job)
    rejects = pa.concat_tables([storage.read_table(file) for file in Ledger(job.output).files("rejects")]).to_pylist()
    assert {row["clip_id"]: row["outcome"] for row in rejects} == expected
    assert len(rejects) == 200
    assert all(row["stage"] == "embed" and row["reason"] for row in rejects)
    assert counts["rows"] == sum(counts["outcomes"].values()) == 1000
    assert counts["outcomes"] == {KEPT: 800, **Counter(expected.values())}
    assert sorted(embeddings_of(tmp_path / "out")) == [f"sound_{index:04d}" for index in range(800)]


def test_too_large_a_share_of_failures_stops_with_reasons_and_examples(pool: Any, tmp_path: Path):
    broken = write_broken_clips(str(tmp_path / "broken"), 6, 7, longest_seconds=5.0)
    rows = sound_clips(6)
    rows += [{"clip_id": f"bad_{i}", "audio": {"bytes": None, "path": clip.path}} for i, clip in enumerate(broken)]
    shards = write_shards([pa.Table.from_pylist(rows, schema=CLIPS)], str(tmp_path / "clips"), rows_per_shard=6)
    with pytest.raises(
        StageError, match=r"6 of 12 clips cannot be used .*undecodable.* max_failed_share 0\.25"
    ) as caught:
        embed_clips(shards.files, pool.job(tmp_path / "out", max_failed_share=0.25))
    assert "bad_0: " in str(caught.value)
    assert str(broken[0].path) in str(caught.value)
    # What was embedded is there for an attempt with another limit.
    before = written_at(tmp_path / "out")
    counts = embed_clips(shards.files, pool.job(tmp_path / "out", max_failed_share=0.5))
    assert counts["outcomes"][KEPT] == 6
    assert written_at(tmp_path / "out") == before


def test_a_shard_that_is_made_again_counts_once_against_the_share_of_failures(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ray_stages, "CHECK_FAILURES_FROM_ROWS", 13)  # above the number of clips
    missing = [{"clip_id": f"a_{i}", "audio": {"bytes": None, "path": str(tmp_path / f"{i}.wav")}} for i in range(6)]
    table = pa.Table.from_pylist(missing + sound_clips(6), schema=CLIPS)
    shards = write_shards([table], str(tmp_path / "clips"), rows_per_shard=6)
    job = pool.job(tmp_path / "out", max_failed_share=0.5)
    first = embed_clips(shards.files, job)
    assert first["outcomes"] == {KEPT: 6, "missing": 6}
    (tmp_path / "out" / "shards" / "shard_00000.parquet").unlink()
    assert embed_clips(shards.files, job)["outcomes"] == first["outcomes"]


def test_an_actor_takes_no_more_threads_than_its_machine_has(pool: Any):
    import ray

    @ray.remote(num_cpus=0.1)
    def threads_of(wanted: int) -> int:
        ray_stages._Embedder(source=pool.teacher, texts=True, threads=wanted, stage="embed")
        return torch.get_num_threads()

    assert ray.get([threads_of.remote(wanted) for wanted in (1, 1000)]) == [1, 4]  # the CPUs of this Ray


def test_a_table_that_is_not_there_is_an_error_of_ours(pool: Any, tmp_path: Path):
    absent = str(tmp_path / "no.parquet")
    with pytest.raises((DataError, FileNotFoundError), match=r"no\.parquet"):
        embed_clips([absent], pool.job(tmp_path / "out"))
