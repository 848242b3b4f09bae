from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysem import storage
from raysem.audio.load import AudioSettings, load_clip
from raysem.config import build
from raysem.corpora.synthetic import (
    HIDDEN_LABELS,
    PART_NAMES,
    SyntheticSettings,
    build_synthetic,
    plan_clips,
    render,
)
from raysem.corpora.synthetic_sounds import DOMAIN_SOUNDS, SOUNDS, WILD_SOUNDS
from raysem.errors import ClipError, ConfigError
from raysem.tables import CAPTIONS, CLIPS

SMALL = SyntheticSettings(
    teacher_clips=12,
    wild_clips=40,
    test_clips_per_class=1,
    validation_clips=5,
    extra_captions=20,
    min_seconds=0.5,
    max_seconds=0.8,
    broken_share=0.2,
    too_long_seconds=5,
    rows_per_shard=15,
)
AUDIO = AudioSettings(sample_rate=16_000)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    build_synthetic(SMALL, str(folder))
    return folder


def rows(folder: Path | str, part: str) -> list[dict[str, Any]]:
    return storage.read_table(storage.join(str(folder), part, "clips")).to_pylist()


def audio_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "audio").rglob("*")) if p.is_file()}


def test_each_part_is_a_clips_table_with_what_it_may_show(built: Path):
    sizes = {"teacher": 12, "wild": 40, "test": 15, "validation": 5}
    for part in PART_NAMES:
        table = storage.read_table(storage.join(str(built), part, "clips"))
        assert table.schema.equals(CLIPS)
        assert len(table) == sizes[part] == len(set(table["clip_id"].to_pylist()))
        for row in table.to_pylist():
            assert (len(row["captions"]) > 0) == (part in ("teacher", "validation"))
            assert (len(row["labels"]) > 0) == (part != "wild")
            assert row["source"] == "synthetic"
    assert sorted(row["labels"][0] for row in rows(built, "test")) == sorted(DOMAIN_SOUNDS)
    assert json.loads((built / "labels.json").read_text())["test_labels"] == list(DOMAIN_SOUNDS)


def test_the_caption_pool_holds_the_teachers_captions_and_goes_beyond_the_domain(built: Path):
    table = storage.read_table(str(built / "captions.parquet"))
    assert table.schema.equals(CAPTIONS)
    texts = table["text"].to_pylist()
    assert len(texts) == len(set(texts))
    of_teacher = {text for row in rows(built, "teacher") for text in row["captions"]}
    in_pool = {row["text"] for row in table.to_pylist() if row["source"] == "teacher"}
    assert in_pool == of_teacher
    hidden = storage.read_table(str(built / "hidden_caption_labels.parquet")).to_pylist()
    assert [row["caption_id"] for row in hidden] == table["caption_id"].to_pylist()
    named = {label for row in hidden for label in row["labels"]}
    assert named - set(DOMAIN_SOUNDS)
    assert named & set(WILD_SOUNDS)


def test_loading_every_wild_clip_gives_the_outcome_that_its_hidden_row_says(built: Path):
    hidden = storage.read_table(str(built / "hidden_labels.parquet"))
    assert hidden.schema.equals(HIDDEN_LABELS)
    expected = {row["clip_id"]: row["outcome"] for row in hidden.to_pylist()}
    limited = AudioSettings.model_validate({"sample_rate": 16_000, "limits": {"max_duration_seconds": 5}})
    found: dict[str, str | None] = {}
    for row in rows(built, "wild"):
        try:
            load_clip(row["audio"]["bytes"], row["audio"]["path"], settings=limited)
            found[row["clip_id"]] = None
        except ClipError as error:
            found[row["clip_id"]] = error.outcome
    assert found == expected
    assert sum(outcome is not None for outcome in found.values()) >= 9


def test_a_second_build_of_the_same_settings_does_nothing(built: Path):
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file()}
    content = build_synthetic(SMALL, str(built))
    assert content["clips"] == {"teacher": 12, "wild": 40, "test": 15, "validation": 5}
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file()} == before


def test_a_half_finished_build_goes_on_and_ends_in_the_same_files(built: Path, tmp_path: Path):
    half = tmp_path / "half"
    build_synthetic(SMALL, str(half))
    whole = audio_files(built)
    kept = half / "audio/wild" / next(p.name for p in sorted((half / "audio/wild").iterdir()) if p.is_file())
    stamp = kept.stat().st_mtime_ns
    (half / "corpus.json").unlink()
    storage.delete(str(half / "validation"))
    storage.delete(str(half / "wild"))
    lost = [p for p in sorted((half / "audio/wild").iterdir()) if p.is_file() and p != kept]
    for path in lost[:10]:
        path.unlink()
    build_synthetic(SMALL, str(half))
    assert audio_files(half) == whole
    assert kept.stat().st_mtime_ns == stamp
    assert len(rows(half, "wild")) == 40


def test_other_settings_replace_what_is_there(tmp_path: Path):
    small = SMALL.model_copy(update={"wild_clips": 0, "teacher_clips": 3})
    build_synthetic(small, str(tmp_path))
    build_synthetic(small.model_copy(update={"seed": 1, "teacher_clips": 2}), str(tmp_path))
    assert len(rows(tmp_path, "teacher")) == 2
    assert len(list((tmp_path / "audio/teacher").iterdir())) == 2


@pytest.mark.slow
def test_two_processes_write_the_same_files_as_one(built: Path, tmp_path: Path):
    build_synthetic(SMALL, str(tmp_path), workers=2)
    assert audio_files(tmp_path) == audio_files(built)


def test_a_remote_output_holds_the_same_bytes_inside_its_tables(built: Path):
    remote = "memory://synthetic-test"
    build_synthetic(SMALL, remote)
    local = {row["clip_id"]: row["audio"] for row in rows(built, "wild")}
    missing = 0
    for row in rows(remote, "wild"):
        path = Path(local[row["clip_id"]]["path"])
        if path.exists():
            assert row["audio"]["bytes"] == path.read_bytes()
        else:
            missing += 1
            assert row["audio"]["bytes"] is None
            assert row["audio"]["path"].startswith(remote)
    assert missing == 1


def test_the_wild_pool_has_the_shares_that_the_settings_say():
    settings = SyntheticSettings()
    plans = plan_clips(settings)["wild"]
    kinds = Counter(plan.kind for plan in plans)
    for kind, share in settings.unusual_shares.items():
        assert kinds[kind] == round(share * settings.wild_clips)
    assert 0.35 <= 1 - kinds["event"] / len(plans) <= 0.4
    assert all(plan.labels[0] in DOMAIN_SOUNDS for plan in plans if plan.kind == "event")
    assert not any(set(plan.labels) & set(DOMAIN_SOUNDS) for plan in plans if plan.kind == "off_domain")
    assert not any(set(plan.labels) & set(WILD_SOUNDS) for plan in plan_clips(settings)["teacher"])


def test_the_plans_draw_every_format_rate_and_channel_count():
    plans = [plan for part in plan_clips(SyntheticSettings()).values() for plan in part]
    assert len({plan.format for plan in plans}) == 8
    assert {plan.sample_rate for plan in plans} == {8000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000}
    assert {plan.channels for plan in plans} == {1, 2}
    assert set(SOUNDS) == {label for plan in plans for label in plan.labels}


def test_a_clip_does_not_depend_on_the_size_of_another_part():
    few, many = (plan_clips(SMALL.model_copy(update={"wild_clips": count})) for count in (5, 50))
    for part in ("teacher", "test", "validation"):
        assert few[part] == many[part]


def test_a_rendered_clip_keeps_its_planned_level_and_shape():
    for plan in plan_clips(SMALL)["teacher"]:
        samples_TC = render(plan)
        assert samples_TC.shape == (int(plan.seconds * plan.sample_rate), plan.channels)
        assert samples_TC.dtype == np.float32
        assert 20 * np.log10(np.abs(samples_TC).max()) == pytest.approx(plan.level_dbfs, abs=0.01)


def test_near_duplicates_sound_like_their_originals_and_exact_ones_are_equal():
    settings = SMALL.model_copy(update={"near_duplicate_share": 0.2, "exact_duplicate_share": 0.2})
    plans = {plan.clip_id: plan for part in plan_clips(settings).values() for plan in part}
    kinds = Counter()
    for plan in plans.values():
        if plan.duplicate_of is None:
            continue
        kinds[plan.kind] += 1
        copy_TC, original_TC = render(plan), render(plans[plan.duplicate_of])
        if plan.kind == "exact_duplicate":
            np.testing.assert_array_equal(copy_TC, original_TC)
            assert plan.format == plans[plan.duplicate_of].format
        else:
            tail_TC = original_TC[len(original_TC) - len(copy_TC) :]
            correlation = np.corrcoef(copy_TC[:, 0], tail_TC[:, 0])[0, 1]
            assert 0.999 < correlation < 1
            assert not np.array_equal(copy_TC, tail_TC)
    assert kinds["near_duplicate"] == kinds["exact_duplicate"] == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"noise_share": 0.6, "broken_share": 0.6}, "sum to .* more than 1"),
        ({"min_seconds": 4, "max_seconds": 3}, "max_seconds 3.0 is below min_seconds 4.0"),
        ({"min_snr_db": 30}, "max_snr_db 20.0 is below"),
        ({"wild_clip": 3}, "wild_clip: no such key"),
    ],
)
def test_settings_that_make_no_sense_are_refused(content: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build(SyntheticSettings, content)


def test_labels_are_lists_of_strings_even_where_hidden(built: Path):
    for part in PART_NAMES:
        column = storage.read_table(storage.join(str(built), part, "clips"))["labels"]
        assert column.type == pa.list_(pa.string())
        assert column.null_count == 0
