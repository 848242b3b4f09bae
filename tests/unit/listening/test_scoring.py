from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raysem import storage
from raysem.config import plain
from raysem.errors import UserError
from raysem.listening.scorecard import describe
from raysem.listening.scoring import score_study
from raysem.listening.study import ClipKey, SideKey, StudyKey, Vote
from raysem.metrics.agreement import krippendorff_alpha
from raysem.metrics.binomial import sign_test, win_rate

NUM_CLIPS = 10
VOTES: dict[str, Vote] = {"f": "first", "s": "second", "=": "same"}


def key() -> StudyKey:
    """The first model stands on the left of even clips."""
    clips = []
    for at in range(NUM_CLIPS):
        models = ("first", "second") if at % 2 == 0 else ("second", "first")
        left, right = (SideKey(token=f"{side}{at}", model=m, tags=(m,)) for side, m in zip("lr", models, strict=True))
        clips.append(ClipKey(token=f"t{at}", clip_id=f"clip-{at}", left=left, right=right))
    return StudyKey(study="abc", first="one.parquet", second="two.parquet", seed=0, clips=tuple(clips))


def write_key(folder: Path) -> str:
    location = str(folder / "key.json")
    storage.write_json(location, plain(key()))
    return location


def write_answers(folder: Path, name: str, votes: str, **changes: Any) -> str:
    """`votes` by clip: f, s, = and . for one left open."""
    answers = []
    for clip, sign in zip(key().clips, votes, strict=False):
        if sign != ".":
            tokens = {clip.left.model: clip.left.token, clip.right.model: clip.right.token, "same": "same"}
            answers.append({"clip": clip.token, "choice": tokens[VOTES[sign]], "seconds": 2.0 + len(answers)})
    content = {"format": "raysem-listening-answers", "version": 1, "study": "abc", "rater": name, "answers": answers}
    location = str(folder / f"{name}.json")
    storage.write_json(location, content | {"exported": "2026-11-21T10:00:00Z"} | changes)
    return location


def score(folder: Path, raters: Sequence[str]):
    files = [write_answers(folder, f"rater {number}", votes) for number, votes in enumerate(raters)]
    return score_study(write_key(folder), files)


def test_a_rater_is_scored_by_hand(tmp_path: Path):
    found = score(tmp_path, ["ffssss==.."])
    (rater,) = found.raters
    assert (rater.answered, rater.tally.first, rater.tally.second, rater.tally.same) == (8, 2, 4, 2)
    assert rater.tally.rate == win_rate(2, 4)
    assert rater.tally.p_value == sign_test(2, 4)
    assert rater.left == 3  # clip 0 (f), 3 and 5 (s)
    assert rater.median_seconds == 5.5
    assert (found.alpha, found.num_shared_clips, found.disputed) == (None, 0, ())
    assert found.by_clip == rater.tally
    assert (found.together.first, found.together.second, found.together.same) == (2, 4, 2)
    assert found.together.rate is not None
    assert found.together.rate.estimate == pytest.approx(1 / 3)


def test_each_clip_has_one_vote_for_the_model_that_more_raters_chose(tmp_path: Path):
    found = score(tmp_path, ["fs=ff=fs..", "fs==s=fs..", "ffsf=s.s.="])
    verdicts = "fssf=sfs="  # a preference beside two ties decides; nobody answered clip 8
    assert found.by_clip.first == verdicts.count("f")
    assert found.by_clip.second == verdicts.count("s")
    assert found.by_clip.same == verdicts.count("=")
    assert found.by_clip.p_value == sign_test(found.by_clip.first, found.by_clip.second)
    assert found.together.p_value is None


def test_agreement_is_that_of_the_votes_and_not_of_the_sides(tmp_path: Path):
    raters = ["fs=ff=fs..", "fs==s=fs..", "ffsf=s.s.="]
    found = score(tmp_path, raters)
    units = [[vote for vote in unit if vote != "."] for unit in zip(*raters, strict=True)]
    assert found.alpha == pytest.approx(krippendorff_alpha(units), abs=1e-15)
    assert found.num_shared_clips == 8
    assert score(tmp_path, ["fsfsfsfsfs", "fsfsfsfsfs"]).alpha == 1


def test_the_clips_on_which_raters_part_most_come_first(tmp_path: Path):
    found = score(tmp_path, ["ffffffffff", "fsffff.f=f", "fssfff.f=f", "f=sfff.ffs"])
    assert [clip.clip_id for clip in found.disputed] == ["clip-1", "clip-2", "clip-8", "clip-9"]
    assert [clip.disagreement for clip in found.disputed] == pytest.approx([5 / 6, 4 / 6, 4 / 6, 3 / 6])
    assert (found.disputed[0].first, found.disputed[0].second, found.disputed[0].same) == (1, 2, 1)


def test_raters_who_copy_each_other_do_not_make_the_result_surer(tmp_path: Path):
    one = score(tmp_path, ["ffssfsssss"])
    four = score(tmp_path, ["ffssfsssss"] * 4)
    assert four.by_clip == one.by_clip
    assert four.together.first == 4 * one.together.first
    assert one.together.rate is not None
    assert four.together.rate is not None
    widths = [rate.high - rate.low for rate in (one.together.rate, four.together.rate)]
    assert widths[1] == pytest.approx(widths[0], abs=1e-12)


def test_swapping_the_models_turns_every_number_round(tmp_path: Path):
    votes = ["ffs=fs.sff", "fss=fsfsf="]
    turned = [text.translate(str.maketrans("fs", "sf")) for text in votes]
    one, other = score(tmp_path, votes), score(tmp_path, turned)
    for tally, mirror in ((one.by_clip, other.by_clip), (one.raters[0].tally, other.raters[0].tally)):
        assert (tally.first, tally.second, tally.same) == (mirror.second, mirror.first, mirror.same)
        assert tally.p_value == mirror.p_value
    assert one.alpha == pytest.approx(other.alpha)


def test_only_ties_or_nothing_give_no_rate(tmp_path: Path):
    found = score(tmp_path, ["====", ""])
    for tally in (found.raters[0].tally, found.raters[1].tally, found.together, found.by_clip):
        assert (tally.rate, tally.p_value) == (None, None)
    assert found.raters[1].median_seconds is None
    text = describe(found)
    assert "unfinished: 2 of 2 raters; answers missing: 16." in text
    assert "alpha is not defined: no clip has the answers of two raters" in text


def test_the_card_says_what_the_numbers_are(tmp_path: Path):
    found = score(tmp_path, ["ffssss==..", "ffssss==sf"])
    text = describe(found)
    exact = win_rate(2, 4)
    row = f"8 of 10      2       4     2  33.3 % [{100 * exact.low:.1f}, {100 * exact.high:.1f}]"
    assert row in text
    assert "0.69" in text
    assert "first:  one.parquet" in text
    assert "Krippendorff's alpha (nominal) 1.000 over 8 clips" in text
    assert "unfinished: 1 of 2 raters; answers missing: 2." in text
    assert "part most" not in text
    assert "raters part most on (first, second, same):\n  clip-0  (1, 1, 0)" in describe(score(tmp_path, ["f", "s"]))


def test_the_score_is_json_through_and_through(tmp_path: Path):
    found = json.loads(json.dumps(score(tmp_path, ["ffs=", "fs.."]).to_json()))
    assert found["raters"][0]["tally"]["first"] == 2
    assert found["by_clip"]["rate"]["level"] == 0.95


def test_the_interval_of_all_answers_draws_clips(tmp_path: Path):
    """Slow twin: the same draws, the votes counted one by one."""
    votes = ["ffsssffs=s", "fssss=fsfs"]
    found = score(tmp_path, votes).together.rate
    assert found is not None
    rates = []
    for clips in np.random.default_rng(0).integers(NUM_CLIPS, size=(2000, NUM_CLIPS)):
        drawn = [text[clip] for clip in clips for text in votes]
        rates.append(drawn.count("f") / (drawn.count("f") + drawn.count("s")))
    assert (found.low, found.high) == pytest.approx(np.quantile(rates, [0.025, 0.975]), abs=1e-12)


def mistake(folder: Path, *files: str) -> str:
    with pytest.raises(UserError) as caught:
        score_study(write_key(folder), files)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_file_that_is_no_answers_file_is_named(tmp_path: Path):
    wrong = tmp_path / "wrong.json"
    assert mistake(tmp_path, str(wrong)) == f"{wrong}: no such file"
    wrong.write_bytes(b"\xff\xfe no json")
    assert mistake(tmp_path, str(wrong)) == f"{wrong}: not a JSON file, expected the answers of a rater"
    wrong.write_text("[1, 2]")
    assert mistake(tmp_path, str(wrong)) == f"{wrong}: expected the answers of a rater, this is something else"
    key_file = write_key(tmp_path)
    assert "expected the answers of a rater, this is the key of a listening test" in mistake(tmp_path, key_file)
    with pytest.raises(UserError, match="expected the key of a listening test, this is the answers of a rater"):
        score_study(write_answers(tmp_path, "Ann", "f"), [])
    with pytest.raises(UserError, match="no file of answers is given"):
        score_study(key_file, [])


def test_answers_of_another_study_are_refused(tmp_path: Path):
    found = mistake(tmp_path, write_answers(tmp_path, "Ann", "ff", study="xyz"))
    assert found.endswith("Ann.json: answers of study xyz, but the key is of study abc")


def test_the_same_rater_twice_is_refused(tmp_path: Path):
    ann = write_answers(tmp_path, "Ann B", "ff")
    again = write_answers(tmp_path, "other", "fs", rater=" ann  b ")
    assert mistake(tmp_path, ann, again) == f"{again}: rater 'ann b' also stands in {ann}; give one of them"
    assert "also stands in" in mistake(tmp_path, ann, ann)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [{"clip": "t0", "choice": "l1", "seconds": 1}],
            "answer 1: choice 'l1' is neither a list of clip t0 nor 'same'",
        ),
        ([{"clip": "t0", "choice": "left", "seconds": 1}], "choice 'left' is neither"),
        ([{"clip": "t99", "choice": "same", "seconds": 1}], "answer 1: study abc has no clip 't99'"),
        ([{"clip": "t1", "choice": "same", "seconds": 1}] * 2, "answer 2: clip t1 is answered twice"),
        ([{"clip": "t1", "choice": "same", "seconds": -1}], "answers.0.seconds: expected greater than or equal to 0"),
        ([{"clip": "t1", "choice": "same"}], "answers.0.seconds: is missing"),
        ([{"clip": "t1", "choice": 3, "seconds": 1}], "answers.0.choice: expected text, got 3"),
        ("none", "answers: expected"),
    ],
)
def test_an_answer_that_the_study_does_not_know_is_named(tmp_path: Path, answers: object, message: str):
    found = mistake(tmp_path, write_answers(tmp_path, "Ann", "", answers=answers))
    assert re.search(r"Ann\.json: .*" + re.escape(message), found)


def test_a_rater_without_a_name_is_refused(tmp_path: Path):
    assert "the rater has no name" in mistake(tmp_path, write_answers(tmp_path, "Ann", "f", rater="  "))
