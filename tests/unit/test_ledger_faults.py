"""Flipped bits and full disks: what a ledger takes for finished is what was written, whole and unaltered."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysem import storage
from raysem.errors import DiskFullError, StageError
from raysem.ledger import DoneRecord, Ledger

pytestmark = pytest.mark.fault

BYTES = 64 * 2**10


def finish(ledger: Ledger, shard: str, rows: int = 12) -> DoneRecord:
    table = pa.table(
        {"a": np.random.default_rng(rows).integers(0, 2**62, rows * BYTES // 8)}
    )  # zstd finds nothing in it
    record = DoneRecord(shard, rows, {"kept": rows - 2, "silent": 2}, seconds=1.25, audio_seconds=10.0)
    return ledger.finish(record, {"shards": table, "rejects": pa.table({"b": [shard]})})


def test_a_record_with_any_bit_flipped_is_no_record(tmp_path: Path):
    ledger = Ledger(str(tmp_path))
    sound = finish(ledger, "shard_00002", rows=2), finish(ledger, "shard_00003", rows=2)
    file = tmp_path / "done" / "shard_00002.json"
    content = file.read_bytes()
    for position in range(len(content) - 1):  # the line's end says nothing
        for bit in np.random.default_rng(position).choice(8, 3, replace=False):
            flipped = bytearray(content)
            flipped[position] ^= 1 << int(bit)
            file.write_bytes(flipped)
            found = ledger.records()
            assert found == {"shard_00003": sound[1]}, bytes(flipped[max(position - 20, 0) : position + 20])
    file.write_bytes(content)
    assert ledger.records(verify=True) == {"shard_00002": sound[0], "shard_00003": sound[1]}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_the_beginning_of_a_record_is_no_record(tmp_path: Path, share: float):
    ledger = Ledger(str(tmp_path))
    finish(ledger, "a", rows=2)
    file = tmp_path / "done" / "a.json"
    content = file.read_bytes().rstrip()
    file.write_bytes(content[: int(share * len(content))])
    assert ledger.pending(["a"]) == ["a"]


def test_the_record_of_another_shard_is_no_record(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    ledger = Ledger(str(tmp_path))
    finish(ledger, "a", rows=2)
    shutil.copy(tmp_path / "done" / "a.json", tmp_path / "done" / "b.json")
    assert set(ledger.records()) == {"a"}
    assert "b.json: not a done-record (speaks of a); its shard is made again" in caplog.text


@pytest.mark.parametrize("kind", ["shards", "rejects"])
def test_a_file_with_any_byte_altered_is_made_again(tmp_path: Path, kind: str):
    ledger = Ledger(str(tmp_path))
    finish(ledger, "a", rows=2)
    finish(ledger, "b", rows=2)
    file = tmp_path / kind / "a.parquet"
    content = file.read_bytes()
    for position in np.linspace(0, len(content) - 1, 25).astype(int):
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(position % 8)
        file.write_bytes(flipped)
        assert ledger.pending(["a", "b"]) == ["a"]
    file.write_bytes(content)
    assert ledger.pending(["a", "b"]) == []


@contextmanager
def tmpfs(folder: Path) -> Iterator[None]:
    """A disk of 2 MiB; the test is skipped where a mount is not permitted."""
    folder.mkdir()
    if os.name != "posix" or not shutil.which("mount"):
        pytest.skip("no mount here")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("a mount is not permitted")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_is_one_line_and_leaves_no_half_of_a_file(tmp_path: Path):
    with tmpfs(tmp_path / "disk"):
        ledger = Ledger(str(tmp_path / "disk" / "stage"))
        written = finish(ledger, "a")
        finish(ledger, "b")
        with pytest.raises(DiskFullError) as caught:
            finish(ledger, "c")
        line = f"{ledger.file_of('c')}: the disk is full; make space, and the same command goes"
        assert str(caught.value).startswith(line)
        assert len(str(caught.value).splitlines()) == 1
        assert set(ledger.records(verify=True)) == {"a", "b"}
        whole = {f"{kind}/{shard}.parquet" for kind in ("shards", "rejects") for shard in "ab"}
        assert files_below(tmp_path / "disk" / "stage") == whole | {"done/a.json", "done/b.json"}
        storage.delete(ledger.file_of("b"))
        assert ledger.pending(["a", "b", "c"]) == ["b", "c"]
        finish(ledger, "c")
        assert ledger.records(verify=True)["a"] == written
        assert ledger.pending(["a", "b", "c"]) == ["b"]


@pytest.mark.parametrize("full", ["shards", "rejects", "done", "."])
def test_a_file_that_does_not_fit_leaves_its_shard_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
):
    ledger = Ledger(str(tmp_path))
    finish(ledger, "a", rows=2)
    kept = files_below(tmp_path)
    on_disk = Path.open

    def no_space(file: Path, *mode: Any) -> Any:
        """The device that is always full, for one of the folders."""
        return on_disk(Path("/dev/full") if file.parent == tmp_path / full else file, *mode)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", no_space)
        with pytest.raises(DiskFullError, match=r"the disk is full; .* \(No space left on device\)"):
            ledger.plan(2) if full == "." else finish(ledger, "b", rows=2)
    assert set(ledger.records(verify=True)) == {"a"}
    new = files_below(tmp_path) - kept
    assert not [name for name in new if name.startswith((".", full)) or name.endswith(".partial")]
    ledger.plan(2)
    finish(ledger, "b", rows=2)
    assert ledger.pending(["a", "b"]) == []


def test_another_failure_of_the_disk_is_not_called_a_full_one(tmp_path: Path):
    (tmp_path / "shards").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="exists") as caught:
        finish(Ledger(str(tmp_path)), "a", rows=2)
    assert not isinstance(caught.value, StageError)
