from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from listening_tables import CLASSES, Inputs, tone, write_scores, write_tags

from raysem import storage
from raysem.errors import DataError, UserError
from raysem.listening.building import ListeningSettings, Study, build_study
from raysem.listening.study import read_key

DATA = re.compile(r'<script type="application/json" id="study">(.*?)</script>', re.DOTALL)


def build(inputs: Inputs, output: str = "study", clip_ids: list[str] | None = None, **settings: Any) -> Study:
    wanted = ListeningSettings(**({"num_clips": 8} | settings))
    location = str(inputs.folder / output)
    return build_study(inputs.clips, inputs.first, inputs.second, location, clip_ids=clip_ids, settings=wanted)


def page_of(study: Study) -> str:
    return Path(study.page).read_text()


def data_of(study: Study) -> dict[str, Any]:
    found = DATA.search(page_of(study))
    assert found
    return json.loads(found.group(1))


def asked(study: Study) -> list[str]:
    return [clip.clip_id for clip in study.key.clips]


def test_the_page_has_the_sounds_and_the_tags_that_the_key_says(inputs: Inputs):
    study = build(inputs, num_tags=3)
    data = data_of(study)
    assert data["study"] == study.key.study
    assert len(data["clips"]) == 8
    scores = {
        model: {row["clip_id"]: row["scores"] for row in pq.read_table(location).to_pylist()}
        for model, location in (("first", inputs.first), ("second", inputs.second))
    }
    for shown, clip in zip(data["clips"], study.key.clips, strict=True):
        assert shown["token"] == clip.token
        for side in ("left", "right"):
            key = getattr(clip, side)
            best = np.argsort(scores[key.model][clip.clip_id])[::-1][:3]
            assert shown[side] == {"token": key.token, "tags": [CLASSES[at] for at in best]}
        samples_T, rate = soundfile.read(io.BytesIO(base64.b64decode(shown["audio"].split(",", 1)[1])))
        hz = np.abs(np.fft.rfft(samples_T)).argmax() * rate / len(samples_T)
        assert hz == pytest.approx(200 + 20 * int(clip.clip_id[-2:]), abs=5)
    assert read_key(study.key_file) == study.key


def test_the_page_tells_nothing_of_the_models_or_the_clips(inputs: Inputs):
    study = build(inputs, num_clips=24)
    text, data = page_of(study), data_of(study)
    for hidden in ("plain_model", "aligned_model", str(inputs.folder), "corpus/siren", "key.json"):
        assert hidden not in text
    for clip in data["clips"]:
        assert set(clip) == {"token", "audio", "seconds", "whole", "peaks", "left", "right"}
        assert set(clip["left"]) == set(clip["right"]) == {"token", "tags"}
    tokens = [
        token for clip in data["clips"] for token in (clip["token"], clip["left"]["token"], clip["right"]["token"])
    ]
    assert len(set(tokens)) == len(tokens) == 72
    assert all(re.fullmatch(r"[0-9a-f]{12}", token) for token in tokens)
    assert set(data) == {"study", "format", "same", "clips"}


def test_the_page_of_swapped_models_differs_in_sides_and_tokens_only(inputs: Inputs):
    """Whatever is left of a page without its tokens and the order of its lists must not depend on who is first."""

    def without_sides(study: Study) -> list[Any]:
        return [
            [clip["audio"], clip["peaks"], sorted([clip["left"]["tags"], clip["right"]["tags"]])]
            for clip in data_of(study)["clips"]
        ]

    one = build(inputs)
    swapped = Inputs(inputs.folder, inputs.clip_ids, inputs.clips, first=inputs.second, second=inputs.first)
    other = build(swapped, "swapped")
    assert without_sides(one) == without_sides(other)
    assert DATA.sub("", page_of(one)) == DATA.sub("", page_of(other))
    assert one.key.study != other.key.study


def test_each_model_stands_on_the_left_in_half_of_the_clips(inputs: Inputs):
    for num_clips, seed in ((8, 0), (8, 1), (24, 2), (7, 3), (1, 4), (1, 5)):
        study = build(inputs, f"{num_clips}-{seed}", num_clips=num_clips, seed=seed)
        for clip in study.key.clips:
            assert {clip.left.model, clip.right.model} == {"first", "second"}
        num_left = sum(clip.left.model == "first" for clip in study.key.clips)
        assert abs(2 * num_left - num_clips) == num_clips % 2


def test_sides_are_drawn_and_change_with_the_seed(inputs: Inputs):
    sides = []
    for seed in range(12):
        study = build(inputs, f"seed-{seed}", num_clips=6, seed=seed)
        sides.append(tuple(clip.left.model for clip in study.key.clips))
    assert len(set(sides)) > 6  # of 20 ways to place 3 of 6
    first_on_left = Counter(place for way in sides for place, model in enumerate(way) if model == "first")
    assert set(first_on_left) == set(range(6))


def test_the_same_inputs_give_the_same_study_to_the_byte(inputs: Inputs):
    one, other = build(inputs), build(inputs, "again")
    assert page_of(one) == page_of(other)
    assert Path(one.key_file).read_bytes() == Path(other.key_file).read_bytes()


def test_clips_are_drawn_by_the_seed_and_not_by_the_scores(inputs: Inputs):
    one = build(inputs)
    assert asked(build(inputs, "other-seed", seed=1)) != asked(one)
    for seed in (11, 12):
        other = write_scores(inputs.folder / f"other-{seed}.parquet", inputs.clip_ids, seed)
        changed = Inputs(inputs.folder, inputs.clip_ids, inputs.clips, inputs.first, other)
        assert asked(build(changed, f"changed-{seed}")) == asked(one)


def test_sides_cannot_be_told_from_the_seed_and_what_the_page_shows(inputs: Inputs):
    """Another score that moves no tag: the page shows the same lists, and other tokens."""
    tags = {clip_id: [("Dog", 0.9), ("Cat", 0.5)] for clip_id in inputs.clip_ids}
    more = {clip_id: [("Dog", 0.9), ("Cat", 0.4)] for clip_id in inputs.clip_ids}
    studies = []
    for name, of_second in (("one", tags), ("two", more)):
        second = write_tags(inputs.folder / f"{name}.parquet", of_second)
        studies.append(build(Inputs(inputs.folder, inputs.clip_ids, inputs.clips, inputs.first, second), f"of-{name}"))
    lists = [{frozenset((clip.left.tags, clip.right.tags)) for clip in study.key.clips} for study in studies]
    assert lists[0] == lists[1]
    tokens = [{clip.left.token for clip in study.key.clips} for study in studies]
    assert not tokens[0] & tokens[1]


def test_named_clips_are_all_asked_in_a_drawn_order(inputs: Inputs):
    wanted = inputs.clip_ids[3:15]
    study = build(inputs, clip_ids=wanted)
    assert sorted(asked(study)) == wanted
    assert asked(study) != wanted
    assert asked(build(inputs, "again", clip_ids=wanted, seed=5)) != asked(study)


def test_only_clips_of_both_predictions_are_asked(inputs: Inputs):
    few = write_scores(inputs.folder / "few.parquet", inputs.clip_ids[:9], seed=3)
    study = build(Inputs(inputs.folder, inputs.clip_ids, inputs.clips, inputs.first, few), num_clips=9)
    assert sorted(asked(study)) == inputs.clip_ids[:9]


def test_a_clip_that_cannot_be_played_gives_its_place_to_the_next(inputs: Inputs):
    broken = set(asked(build(inputs))[:2])
    whole = build(inputs, "all", num_clips=24)
    replace_audio(inputs, dict.fromkeys(broken, b"no audio"))
    study = build(inputs, "without")
    assert set(study.left_out) == broken
    assert asked(study) == [clip_id for clip_id in asked(whole) if clip_id not in broken][:8]
    with pytest.raises(
        UserError, match=r"^--num-clips 24: 2 clips cannot be played, 22 can \(corpus/siren-\d\d: undec"
    ):
        build(inputs, "too-many", num_clips=24)
    with pytest.raises(UserError, match=r"^--ids: 1 clips cannot be played, 0 can"):
        build(inputs, "named", clip_ids=[min(broken)])


def replace_audio(inputs: Inputs, audio: dict[str, bytes]) -> None:
    for file in storage.list_files(inputs.clips, ".parquet"):
        table = pq.read_table(file)
        rows = table.to_pylist()
        for row in rows:
            if row["clip_id"] in audio:
                row["audio"] = {"bytes": audio[row["clip_id"]], "path": None}
        storage.write_table(file, table.from_pylist(rows, schema=table.schema))


def test_of_a_long_clip_the_beginning_is_played_and_the_page_knows(inputs: Inputs):
    long = inputs.clip_ids[0]
    replace_audio(inputs, {long: tone(500, seconds=3)})
    study = build(inputs, num_clips=24, max_seconds=1.5)
    for shown, clip in zip(data_of(study)["clips"], study.key.clips, strict=True):
        assert shown["whole"] == (clip.clip_id != long)
        assert shown["seconds"] == pytest.approx(1.5 if clip.clip_id == long else 0.3, abs=0.01)


def test_lists_that_are_alike_are_counted_and_kept(inputs: Inputs):
    tags = {clip_id: [("Dog", 0.9), ("Cat", 0.5)] for clip_id in inputs.clip_ids}
    first = write_tags(inputs.folder / "one.parquet", tags)
    tags |= {clip_id: [("Cat", 0.9)] for clip_id in inputs.clip_ids[:5]}
    second = write_tags(inputs.folder / "two.parquet", tags)
    study = build(Inputs(inputs.folder, inputs.clip_ids, inputs.clips, first, second), num_clips=24)
    assert study.to_json()["alike"] == study.num_alike == 19


def test_tags_of_strangers_do_not_become_part_of_the_page(inputs: Inputs):
    study = build(inputs, num_clips=24, num_tags=6)
    assert any("</script>" in tag for clip in data_of(study)["clips"] for tag in clip["left"]["tags"])
    assert page_of(study).count("</script>") == 2  # the data's and the program's own


def test_the_key_of_another_study_is_not_overwritten(inputs: Inputs):
    study = build(inputs)
    build(inputs)
    with pytest.raises(UserError, match=rf"key\.json: is the key of study {study.key.study}.*choose another --output"):
        build(inputs, seed=1)
    assert read_key(study.key_file) == study.key


def test_mistakes_are_one_line_that_names_them(inputs: Inputs):
    def mistake(clips: str = inputs.clips, second: str = inputs.second, clip_ids: list[str] | None = None) -> str:
        changed = Inputs(inputs.folder, inputs.clip_ids, clips, inputs.first, second)
        with pytest.raises(UserError) as caught:
            build(changed, "wrong", num_clips=8, clip_ids=clip_ids)
        assert not (inputs.folder / "wrong").exists()
        return str(caught.value)

    others = write_scores(inputs.folder / "others.parquet", ["x", "y", *inputs.clip_ids[:3]], seed=4)
    assert "--first and --second are the same predictions" in mistake(second=inputs.first)
    found = mistake(second=others)
    assert found.startswith("--num-clips 8: only 3 clips stand in")
    assert found.endswith("of which the first have 24 and the second 5")
    assert "`raysem corpus build` makes one" in mistake(clips=str(inputs.folder / "nowhere"))
    assert "no column 'clip_id'" in mistake(clips=write_table_without_ids(inputs.folder))
    assert mistake(clip_ids=[]) == "--ids: names no clip"
    assert mistake(clip_ids=["a", "b", "a"]) == "--ids: names clip 'a' twice"
    found = mistake(clip_ids=[inputs.clip_ids[0], "x", "y"], second=others)
    assert found == f"--ids: clip 'x' and 1 more are not in {inputs.clips}"
    found = mistake(clip_ids=inputs.clip_ids[:5], second=others)
    assert found == f"--ids: clip 'corpus/siren-03' and 1 more are not in {others}"


def write_table_without_ids(folder: Path) -> str:
    location = str(folder / "no-ids.parquet")
    storage.write_table(location, pq.read_table(folder / "plain_model.parquet", columns=["scores"]))
    return location


def test_a_table_without_audio_is_refused(inputs: Inputs):
    changed = Inputs(inputs.folder, inputs.clip_ids, inputs.first, inputs.first, inputs.second)
    with pytest.raises(DataError, match=r"plain_model\.parquet: no column 'audio'"):
        build(changed)
