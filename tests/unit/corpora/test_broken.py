from __future__ import annotations

from pathlib import Path

import pytest

from raysem.audio.load import AudioSettings, load_clip
from raysem.audio.waveform import DecodeLimits
from raysem.corpora.broken import BROKEN_KINDS, BrokenClip, write_broken_clips
from raysem.errors import ClipError
from raysem.tables import REJECT_OUTCOMES

KINDS = len(BROKEN_KINDS)
LIMITED = AudioSettings(sample_rate=16_000, limits=DecodeLimits(max_duration_seconds=20))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BrokenClip]:
    folder = tmp_path_factory.mktemp("broken")
    return {clip.kind: clip for clip in write_broken_clips(str(folder), KINDS, seed=0, longest_seconds=20)}


def test_every_outcome_that_a_file_can_have_is_among_them():
    outcomes = {kind.outcome for kind in BROKEN_KINDS.values()}
    of_other_stages = {"excluded_overlap", "duplicate", "crashed_decoder"}
    assert outcomes == set(REJECT_OUTCOMES) - of_other_stages


@pytest.mark.parametrize("kind", BROKEN_KINDS)
def test_loading_gives_the_outcome_from_a_path_and_from_bytes(kind: str, clips: dict[str, BrokenClip]):
    clip = clips[kind]
    with pytest.raises(ClipError) as error:
        load_clip(None, clip.path, settings=LIMITED)
    assert error.value.outcome == clip.outcome
    if kind != "missing":
        with pytest.raises(ClipError) as error:
            load_clip(Path(clip.path).read_bytes(), None, settings=LIMITED)
        assert error.value.outcome == clip.outcome


def test_the_kinds_come_in_turn_and_only_missing_files_are_missing(tmp_path: Path):
    written = write_broken_clips(str(tmp_path), KINDS + 3, seed=1, longest_seconds=5)
    assert [clip.kind for clip in written] == [*BROKEN_KINDS, *list(BROKEN_KINDS)[:3]]
    assert all(Path(clip.path).exists() == (clip.kind != "missing") for clip in written)
    assert len({clip.path for clip in written}) == len(written)


def test_one_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path):
    first, again, other = (
        write_broken_clips(str(tmp_path / name), KINDS, seed=seed, longest_seconds=5)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    content = [[Path(c.path).read_bytes() for c in some if c.kind != "missing"] for some in (first, again, other)]
    assert content[0] == content[1]
    assert content[0] != content[2]
