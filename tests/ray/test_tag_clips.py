"""`raysem tag --clips` on Ray: the tags of each clip alone, whatever the shards, and nothing done twice."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from raysem import cli, storage
from raysem.corpora.shards import write_shards
from raysem.errors import StageError, StorageError, UserError
from raysem.listening.predictions import read_predictions
from raysem.models.tagger import TaggerSettings, build_tagger
from raysem.models.tagger_checkpoint import save_tagger
from raysem.runs import table_tags
from raysem.runs.clip_tags import FileTagger, TagSettings
from raysem.tables import CLIPS

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

RATE = 8000
NAMES = ("Bark", "Hiss", "Rain, heavy", "Zwölf", "Siren")


def write_tagger(folder: str, seed: int = 0) -> str:
    """Of one-second crops at 8 kHz; its batch norms have seen noise, so clips differ."""
    front_end = {"sample_rate": RATE, "window_samples": 256, "hop_samples": 160, "num_mels": 32, "max_hz": 3900.0}
    network = {"channels": (2, 2, 4, 4, 8, 8), "num_mels": 32}
    settings = TaggerSettings(encoder="cnn14_tiny", front_end=front_end, network=network, crop_seconds=1.0)
    tagger = build_tagger(settings, NAMES, [f"/m/{name}" for name in NAMES], None, seed=seed)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        noise_BT = torch.linspace(0.01, 0.2, 8)[:, None] * torch.randn((8, RATE))
        for _ in range(30):
            tagger.train()(noise_BT)
    save_tagger(folder, tagger, {"parents": {"Bark": ["Dog"]}})
    return folder


def wav_bytes(samples_T: np.ndarray, sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples_T, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def noise(seconds: float, sample_rate: int, seed: int) -> np.ndarray:
    num_samples = int(seconds * sample_rate)
    loudness_T = np.linspace(0.01, 0.05 + 0.02 * seed, num_samples)
    return loudness_T * np.random.default_rng(seed).uniform(-1, 1, num_samples)


@dataclass(frozen=True)
class Given:
    """A tagger, a table of 12 usable and 6 unusable clips in shards of 5, and each usable clip as a file."""

    model: str
    clips: str
    files: dict[str, str]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("given")
    rows: list[dict[str, Any]] = []
    files: dict[str, str] = {}

    def add(clip_id: str, content: bytes, alone: bytes | None, **segment: float) -> None:
        rows.append({"clip_id": clip_id, "audio": {"bytes": content, "path": None}, **segment})
        if alone is not None:
            files[clip_id] = str(folder / f"{clip_id}.wav")
            Path(files[clip_id]).write_bytes(alone)

    for index in range(11):
        rate = RATE if index % 2 else 2 * RATE
        content = wav_bytes(noise(0.3 + 0.25 * index, rate, index), rate)
        add(f"clip_{index:02d}", content, content)
    samples_T = noise(3.0, RATE, 11)
    segment = {"start_seconds": 0.5, "duration_seconds": 1.25}
    add("clip_11", wav_bytes(samples_T, RATE), wav_bytes(samples_T[4000:14000], RATE), **segment)
    add("clip_03_broken", b"not audio " * 30, None)
    for index in range(5):  # in the order of ids these fill the last shard but for its first rows
        add(f"last_{index}", b"" if index else b"RIFF", None)
    write_shards([pa.Table.from_pylist(rows, schema=CLIPS)], str(folder / "built" / "clips"), rows_per_shard=5)
    return Given(write_tagger(str(folder / "model")), str(folder / "built"), files)


@pytest.fixture(scope="module")
def tagged(given: Given, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The output of one call, and what it said."""
    output = str(tmp_path_factory.mktemp("tagged"))
    return output, json.loads(call(given, output, "--json"))


def call(given: Given, output: str, *more: str) -> str:
    arguments = ["tag", given.model, "--clips", given.clips, "--output", output, "--crops", "2", "--top", "3"]
    return CliRunner().invoke(cli.app, [*arguments, *more], catch_exceptions=False).stdout


def tags_in(folder: str) -> dict[str, list[dict[str, Any]]]:
    return {row["clip_id"]: row["tags"] for row in storage.read_table(folder).to_pylist()}


def written_at(output: str) -> dict[str, int]:
    kinds = ("tags", "shards", "rejects", "done")
    return {f"{kind}/{file.name}": file.stat().st_mtime_ns for kind in kinds for file in Path(output, kind).iterdir()}


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants Ray now fails."""

    def refuse(*_: Any) -> None:
        raise AssertionError("Ray is not needed")

    monkeypatch.setattr(table_tags, "connect_ray", refuse)
    monkeypatch.setattr("raysem.curation.ray_stages._run_pipeline", refuse)


def test_the_tags_of_a_table_are_those_of_its_clips_one_by_one(given: Given, tagged: tuple[str, dict[str, Any]]):
    found = tags_in(f"{tagged[0]}/tags")
    assert found.keys() == given.files.keys()
    alone = FileTagger(given.model, TagSettings(num_tags=3, num_crops=2)).tag(list(given.files.values()))
    for clip_id, by_file in zip(given.files, alone, strict=True):
        assert [tag["name"] for tag in found[clip_id]] == [tag.name for tag in by_file.tags]
        scores = [tag["score"] for tag in found[clip_id]]
        assert scores == pytest.approx([tag.probability for tag in by_file.tags], abs=1e-6)
        assert len(scores) == 3
    assert len({tuple(tag["score"] for tag in tags) for tags in found.values()}) == len(found)


def test_a_clip_that_cannot_be_used_becomes_a_reject_and_is_counted(given: Given, tagged: tuple[str, dict[str, Any]]):
    output, said = tagged
    rejects = {row["clip_id"]: row for row in storage.read_table(f"{output}/rejects").to_pylist()}
    expected = {"clip_03_broken": "undecodable", "last_0": "undecodable"} | {f"last_{i}": "empty" for i in range(1, 5)}
    assert {clip_id: row["outcome"] for clip_id, row in rejects.items()} == expected
    assert all(row["reason"] for row in rejects.values())
    assert (said["clips"], said["tagged"], said["shards"], said["shards_finished_before"]) == (18, 12, 4, 0)
    assert said["outcomes"] == {"kept": 12, "undecodable": 2, "empty": 4}
    assert (said["tags"], said["rejects"]) == (f"{output}/tags", f"{output}/rejects")
    empty = storage.read_table(f"{output}/tags/shard_00003.parquet")  # three clips, none of use
    assert (len(empty), empty.schema.names) == (0, ["clip_id", "tags"])


def test_the_listening_test_reads_the_tags_and_all_the_scores(given: Given, tagged: tuple[str, dict[str, Any]]):
    output, found = tagged[0], tags_in(f"{tagged[0]}/tags")
    for kind in ("tags", "shards"):
        predictions = read_predictions(f"{output}/{kind}")
        assert predictions.places.keys() == given.files.keys()
        top = predictions.top_tags(list(given.files), 2)
        assert {clip_id: [tag.name for tag in tags] for clip_id, tags in top.items()} == {
            clip_id: [tag["name"] for tag in tags[:2]] for clip_id, tags in found.items()
        }


@pytest.mark.usefixtures("no_cluster")
def test_a_second_call_does_nothing(given: Given, tagged: tuple[str, dict[str, Any]]):
    output, said = tagged
    before = written_at(output)
    assert len(before) == 16
    lines = call(given, output).splitlines()
    assert lines == [
        "18 clips: 12 tagged, 4 empty, 2 undecodable",
        "4 of 4 shards were scored before",
        f"tags:    {output}/tags",
        f"rejects: {output}/rejects",
    ]
    assert json.loads(call(given, output, "--json")) == said | {"shards_finished_before": 4}
    assert written_at(output) == before


@pytest.fixture
def copied(tagged: tuple[str, dict[str, Any]], tmp_path: Path) -> str:
    """The output of the call, to be changed."""
    shutil.copytree(tagged[0], tmp_path / "copied")
    return str(tmp_path / "copied")


@pytest.mark.usefixtures("no_cluster")
def test_another_ranking_and_lost_tags_need_no_model(given: Given, copied: str):
    whole, before = tags_in(f"{copied}/tags"), written_at(copied)
    Path(copied, "tags", "shard_00000.parquet").unlink()
    Path(copied, "tags", "shard_00001.parquet").write_bytes(b"PAR1 torn")
    call(given, copied)
    assert tags_in(f"{copied}/tags") == whole
    changed = {name for name, at in written_at(copied).items() if at != before[name]}
    assert changed == {"tags/shard_00000.parquet", "tags/shard_00001.parquet"}
    call(given, copied, "--top", "2")
    assert tags_in(f"{copied}/tags") == {clip_id: tags[:2] for clip_id, tags in whole.items()}
    least = float(np.median([tag["score"] for tags in whole.values() for tag in tags]))
    call(given, copied, "--threshold", str(least))
    expected = {clip_id: [tag for tag in tags if tag["score"] >= least] for clip_id, tags in whole.items()}
    assert tags_in(f"{copied}/tags") == expected != whole
    assert {name: at for name, at in written_at(copied).items() if not name.startswith("tags/")} == {
        name: at for name, at in before.items() if not name.startswith("tags/")
    }


@pytest.mark.fault
def test_a_lost_shard_alone_is_scored_again(given: Given, copied: str):
    whole, before = tags_in(f"{copied}/tags"), written_at(copied)
    Path(copied, "shards", "shard_00002.parquet").unlink()
    said = json.loads(call(given, copied, "--json"))
    assert (said["tagged"], said["shards_finished_before"]) == (12, 3)
    assert tags_in(f"{copied}/tags") == whole
    changed = {name for name, at in written_at(copied).items() if at != before[name]}
    assert "shards/shard_00002.parquet" in changed
    assert all("shard_00002" in name for name in changed)


@pytest.mark.usefixtures("no_cluster")
def test_tags_of_another_model_table_or_way_are_never_mixed_in(given: Given, copied: str, tmp_path: Path):
    other_model = Given(write_tagger(str(tmp_path / "other"), seed=1), given.clips, {})
    with pytest.raises(UserError, match=r"its tags are of another model; give another output"):
        call(other_model, copied)
    other_table = Given(given.model, f"{given.clips}/clips/shard_00000.parquet", {})
    with pytest.raises(UserError, match="another clips table"):
        call(other_table, copied)
    with pytest.raises(UserError, match="another number of crops"):
        call(given, copied, "--crops", "3")


@pytest.fixture
def one_table(tmp_path: Path) -> Callable[..., str]:
    """Writes rows as a Parquet file of a folder without a manifest."""

    def write(name: str, *rows: tuple[str, bytes | None, str | None]) -> str:
        listed = [{"clip_id": clip_id, "audio": {"bytes": content, "path": path}} for clip_id, content, path in rows]
        storage.write_table(str(tmp_path / "loose" / name), pa.Table.from_pylist(listed, schema=CLIPS))
        return str(tmp_path / "loose")

    return write


def test_a_folder_of_parquet_files_is_a_table_too(given: Given, one_table: Callable[..., str], tmp_path: Path):
    first, second = given.files["clip_02"], given.files["clip_05"]
    one_table("b.parquet", ("two", None, second))
    one_table("empty.parquet")
    folder = one_table("a.parquet", ("one", Path(first).read_bytes(), None))
    said = json.loads(call(Given(given.model, folder, {}), str(tmp_path / "out"), "--json"))
    assert (said["tagged"], said["shards"]) == (2, 2)
    assert sorted(file.name for file in (tmp_path / "out" / "tags").iterdir()) == ["a.parquet", "b.parquet"]
    found = tags_in(str(tmp_path / "out" / "tags"))
    alone = FileTagger(given.model, TagSettings(num_tags=1, num_crops=2)).tag([first, second])
    assert [found[clip_id][0]["name"] for clip_id in ("one", "two")] == [by_file.tags[0].name for by_file in alone]


def test_failures_come_as_errors_of_ours(given: Given, one_table: Callable[..., str], tmp_path: Path):
    good = ("one", Path(given.files["clip_02"]).read_bytes(), None)
    folder = one_table("a.parquet", good, ("bad", b"no audio at all", None))
    table = Given(given.model, folder, {})
    with pytest.raises(StageError, match=r"1 of 2 clips cannot be used .*max_failed_share 0\.25: bad: ") as caught:
        call(table, str(tmp_path / "strict"), "--max-failed-share", "0.25")
    assert type(caught.value) is StageError
    one_table("a.parquet", good, ("bad", None, "nowhere://bucket/x.wav"))  # raised by a task of Ray's
    with pytest.raises(StorageError, match="no filesystem for this scheme") as raised:
        call(table, str(tmp_path / "unreachable"))
    assert type(raised.value) is StorageError
