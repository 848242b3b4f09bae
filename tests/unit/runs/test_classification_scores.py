"""The final numbers of a cross-validation from the probabilities that its stages left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raysem import storage
from raysem.errors import DataError
from raysem.evaluation.classification import ClassificationSettings
from raysem.runs import fold_labels
from raysem.runs.classification_scores import STAGE, score, scored_folds
from raysem.runs.final_scores import read_clip_scores

LABELS = ("siren", "Rain", "bark")  # an order that no sorting gives
SETTINGS = ClassificationSettings(num_resamples=50)
TRUTH = {
    1: {"a": "Rain", "b": "siren", "c": "bark", "d": "Rain"},
    2: {"e": "siren", "f": "bark", "g": "Rain"},
}
RIGHT = {clip_id: label for clips in TRUTH.values() for clip_id, label in clips.items()}


def probabilities(heard: Sequence[str | None]) -> np.ndarray:
    """Rows (A, K) of which the label heard has 0.8; without one all have the same."""
    rows_AK = np.full((len(heard), len(LABELS)), 0.1)
    for row, label in enumerate(heard):
        rows_AK[row] = 1 / len(LABELS) if label is None else rows_AK[row]
        if label is not None:
            rows_AK[row, LABELS.index(label)] = 0.8
    return rows_AK


class Run:
    """Two folds whose clips classifiers hear as one label or another."""

    def __init__(self, root: Path, write_part: Callable[..., str], write_embeddings: Callable[..., str]):
        self.root, self._embeddings = root, write_embeddings
        self.parts: dict[int, list[str]] = {}
        for fold, clips in TRUTH.items():
            rows = [{"clip_id": clip_id, "labels": [label]} for clip_id, label in clips.items()]
            # The last clip of a fold was held out while others were tested; here it is tested with the rest.
            self.parts[fold] = [
                write_part(root / f"fold{fold}/{name}", part)
                for name, part in (("clips", rows[:-1]), ("held_out", rows[-1:]))
            ]
        self.labels = str(root / "labels")
        fold_labels.write(self.labels, self.parts, LABELS)
        self.scores: dict[str, dict[int, list[str]]] = {}

    def add(self, name: str, heard: Mapping[str, str | None], *, without: str = "", turned: bool = False) -> None:
        """A classifier that hears each clip as the label given, in several shards and perhaps in another order."""
        self.scores[name] = {}
        for fold, clips in TRUTH.items():
            ids = [clip_id for clip_id in (reversed(clips) if turned else clips) if clip_id not in without]
            rows_AK = probabilities([heard[clip_id] for clip_id in ids])
            where = self.root / "scores" / name / str(fold)
            shards = {"shard_00000": (ids[:1], rows_AK[:1]), "shard_00001": (ids[1:2], rows_AK[1:2])}
            # the parts of a fold have shards of the same names
            self.scores[name][fold] = [
                self._embeddings(where / "clips", shards),
                self._embeddings(where / "held_out", {"shard_00000": (ids[2:], rows_AK[2:])}),
            ]

    def score(self, baseline: str) -> tuple[dict[str, Any], dict[str, Any]]:
        folder = str(self.root / STAGE / "digest")
        summary = score(folder, self.labels, self.parts, self.scores, baseline, SETTINGS, seed=0)
        return summary, storage.read_json(f"{folder}/scores.json")


@pytest.fixture
def run(tmp_path: Path, write_part: Callable[..., str], write_embeddings: Callable[..., str]) -> Run:
    return Run(tmp_path, write_part, write_embeddings)


def test_accuracies_and_differences_are_those_of_the_clips_heard_right(run: Run):
    run.add("baseline", RIGHT | {"a": "bark", "b": "Rain", "e": "Rain"})  # 2 of 4, 2 of 3
    run.add("cscm", RIGHT | {"a": "bark"}, turned=True)  # 3 of 4, 3 of 3
    summary, found = run.score("baseline")
    baseline, cscm = (found["evaluation"][name]["classification"] for name in ("baseline", "cscm"))
    assert [(one["fold"], one["accuracy"]) for one in baseline["by_fold"]] == [(1, 2 / 4), (2, pytest.approx(2 / 3))]
    assert (cscm["mean"], cscm["pooled"]["accuracy"]) == (pytest.approx(0.875), pytest.approx(6 / 7))
    assert cscm["pooled"]["confusion"]["labels"] == list(LABELS)
    assert cscm["pooled"]["per_class"]["Rain"] == {"accuracy": pytest.approx(2 / 3), "num_clips": 3}
    assert [(one["label"], one["predicted"]) for one in cscm["pooled"]["most_confused"]] == [("Rain", "bark")]
    (row,) = found["differences"]
    assert (row["student"], row["baseline"], row["set"]) == ("cscm", "baseline", "all folds")
    assert row["difference"] == pytest.approx(2 / 7)
    assert summary["headline"][1].startswith("cscm: accuracy 87.50 +- 17.68 % over 2 folds; 7 clips [")


def test_clips_without_scores_are_counted_by_fold_and_not_as_mistakes(run: Run):
    run.add("cscm", RIGHT, without="bdg")
    result = run.score("cscm")[1]["evaluation"]["cscm"]["classification"]
    assert [(one["num_clips"], one["num_unscored"]) for one in result["by_fold"]] == [(2, 2), (2, 1)]
    assert (result["pooled"]["accuracy"], result["pooled"]["num_clips"], result["pooled"]["num_unscored"]) == (1, 4, 3)


def test_one_classifier_alone_has_no_differences_and_one_fold_no_deviation(run: Run):
    run.add("cscm", RIGHT)
    del run.scores["cscm"][1]
    summary, found = run.score("cscm")
    assert found["differences"] == []
    assert found["evaluation"]["cscm"]["classification"]["sd"] is None
    assert summary == {"headline": ["cscm: accuracy 100.00 % over 1 fold; 3 clips [100.0, 100.0]"]}


def test_each_row_of_a_fold_meets_the_label_of_its_own_clip(run: Run):
    run.add("cscm", RIGHT, turned=True)
    one = scored_folds(LABELS, run.parts, run.scores["cscm"])[1]
    assert one.clip_ids == ["d", "c", "b", "a"]
    assert [LABELS[place] for place in one.target_A] == [RIGHT[clip_id] for clip_id in one.clip_ids]
    assert (one.scores_AK.argmax(axis=1) == one.target_A).all()


def test_a_fold_of_which_nothing_could_be_used_is_named(run: Run):
    run.add("cscm", RIGHT, without="efg")
    with pytest.raises(DataError, match=r"^fold 2: none of its 3 clips can be used$"):
        run.score("cscm")


def test_classifiers_that_could_use_other_clips_are_not_compared(run: Run):
    run.add("baseline", RIGHT)
    run.add("cscm", RIGHT, without="f")
    with pytest.raises(DataError, match=r"^fold 2: cscm could use other clips than baseline$"):
        run.score("baseline")
    assert not Path(run.root / STAGE / "digest" / "scores.json").exists()


def test_what_each_clip_was_heard_as_is_left_for_comparisons_of_runs(run: Run):
    run.add("baseline", RIGHT | {"a": "bark", "b": None, "e": "Rain"})
    run.add("cscm", RIGHT | {"g": "bark"}, turned=True)
    found = run.score("baseline")[1]
    scores = read_clip_scores(str(run.root), {"stages": {STAGE: {"digest": "digest"}}})
    assert list(scores) == ["folds"]
    assert scores["folds"].clip_ids == list("abcdefg")
    correct = {name: values.tolist() for name, values in scores["folds"].correct.items()}
    assert correct == {"baseline": [0, pytest.approx(1 / 3), 1, 1, 0, 1, 1], "cscm": [1, 1, 1, 1, 1, 1, 0]}
    for name, values in scores["folds"].correct.items():
        assert values.mean() == pytest.approx(found["evaluation"][name]["classification"]["pooled"]["accuracy"])
