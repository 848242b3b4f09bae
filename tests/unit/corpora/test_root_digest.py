from __future__ import annotations

import os
from pathlib import Path

import pytest

from raysem.corpora import root_digest
from raysem.corpora.root_digest import digest_below, digest_of_files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/audio/deep").mkdir(parents=True)
    (tmp_path / "root/audio/deep/x.wav").write_bytes(b"1234")
    (tmp_path / "root/audio/y.flac").write_bytes(b"12")
    (tmp_path / "root/labels.csv").write_text("a,b\n")
    return tmp_path / "root"


def digest_after(root: Path, name: str, content: bytes) -> str:
    (root / name).write_bytes(content)
    return digest_below(str(root))


def test_a_digest_changes_with_sizes_names_and_the_content_of_tables(root: Path):
    seen = [digest_below(str(root))]
    assert digest_below(str(root)) == seen[0]
    seen.append(digest_after(root, "labels.csv", b"a,c\n"))
    seen.append(digest_after(root, "audio/deep/x.wav", b"12345"))
    seen.append(digest_after(root, "audio/z.wav", b""))
    (root / "audio/z.wav").rename(root / "audio/z.ogg")
    seen.append(digest_below(str(root)))
    (root / "audio/z.ogg").unlink()
    (root / "audio/gone.wav").symlink_to(root / "nowhere")
    seen.append(digest_below(str(root)))
    assert len(set(seen)) == len(seen)
    assert digest_after(root, "audio/y.flac", b"34") == seen[-1]  # audio of the same size is not read


def test_a_digest_is_the_same_on_every_machine(root: Path):
    assert digest_below(str(root)) == "4f400abf62662a28"


def test_a_file_may_be_the_root(root: Path):
    before = digest_below(str(root / "labels.csv"))
    (root / "labels.csv").write_text("a,d\n")
    assert digest_below(str(root / "labels.csv")) != before


def test_linked_folders_are_listed_and_circles_end(root: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "audio/up").symlink_to(root)
    before = digest_below(str(root))
    (tmp_path / "elsewhere/a.wav").write_bytes(b"1")
    assert digest_below(str(root)) != before


@pytest.mark.skipif(os.geteuid() == 0, reason="root lists every folder")
def test_a_folder_that_may_not_be_listed_is_passed_over(root: Path):
    before = digest_below(str(root))
    (root / "lost+found").mkdir(mode=0)
    assert digest_below(str(root)) == before
    (root / "lost+found").chmod(0o700)


def test_sidecars_beyond_a_thousand_are_not_read(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(root_digest, "HASHED_FILES", 2)
    for name in ("1", "2"):
        (root / f"audio/{name}.json").write_text(name)
    before = digest_below(str(root))
    assert digest_after(root, "audio/2.json", b"3") == before
    assert digest_after(root, "audio/1.json", b"3") != before


def test_a_long_listing_says_what_it_cost_and_how_to_spare_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", logger="raysem")
    digest_below(str(root))
    assert not caplog.messages
    monkeypatch.setattr(root_digest, "MANY_FILES", 3)
    digest_below(str(root))
    (message,) = caplog.messages
    assert message.startswith(f"{root}: listed 3 files in 0 s")
    assert "raysem corpus pack" in message


def test_named_files_count_by_content_or_by_size(root: Path):
    table, sound = str(root / "labels.csv"), str(root / "audio/y.flac")

    def digest() -> str:
        return digest_of_files(str(root), [table], [sound])

    seen = [digest()]
    (root / "audio/new.wav").write_bytes(b"1")
    Path(sound).write_bytes(b"34")
    assert digest() == seen[0]
    Path(sound).write_bytes(b"345")
    seen.append(digest())
    Path(table).write_text("a,c\n")
    seen.append(digest())
    Path(sound).unlink()
    seen.append(digest())
    assert len(set(seen)) == len(seen)
