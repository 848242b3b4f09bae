from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raysem import storage
from raysem.errors import DataError
from raysem.evaluation.zero_shot import ZeroShotSettings
from raysem.models.teacher import TeacherSource, load_teacher
from raysem.runs import teachers
from raysem.runs.curation_recipe import EvaluationSettings, TeacherSettings
from raysem.runs.final_scores import score

LABELS = ["dog", "rain", "siren"]
SETTINGS = EvaluationSettings(zero_shot=ZeroShotSettings(num_resamples=50))


class Evaluation:
    """Six labelled clips whose embeddings are those of chosen labels, for a teacher and students of its weights."""

    def __init__(
        self, root: Path, checkpoint: str, write_part: Callable[..., str], write_embeddings: Callable[..., str]
    ):
        self.root, self._embeddings = root, write_embeddings
        self.model = load_teacher(TeacherSource(location=checkpoint), "cpu")
        self.checkpoint = checkpoint
        self.truth = ["dog", "dog", "rain", "rain", "siren", "siren"]
        self.ids = [f"e{index}" for index in range(6)]
        rows = [
            {"clip_id": name, "labels": [label], "captions": [f"the {label} sounds"]}
            for name, label in zip(self.ids, self.truth, strict=True)
        ]
        self.rows, self._part = rows, write_part
        self.corpus = write_part(root / "corpus", rows)
        self.models: dict[str, str] = {}
        self.embeddings: dict[str, str] = {}

    def add(self, name: str, heard: list[str], ids: list[str] | None = None) -> None:
        """A model that hears each clip as the label given."""
        folder = str(self.root / "models" / name)
        teachers.load(folder, TeacherSettings(kind="raysem", location=self.checkpoint))
        self.models[name] = folder
        prompts = [SETTINGS.zero_shot.prompt.template.replace("{label}", label) for label in heard]
        shards = {"shard_00000": (ids or self.ids, self.model.embed_texts(prompts))}
        self.embeddings[f"esc/{name}"] = self._embeddings(self.root / "embeddings" / name, shards)

    def score(self, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        folder = str(self.root / "scores")
        arguments: dict[str, Any] = {
            "corpora": {"esc": self.corpus},
            "models": self.models,
            "embeddings": self.embeddings,
            "settings": SETTINGS,
            "seed": 0,
        }
        summary = score(folder, **(arguments | changes))
        return summary, storage.read_json(f"{folder}/scores.json")


@pytest.fixture
def evaluation(
    tmp_path: Path, tiny_checkpoint: str, write_part: Callable[..., str], write_embeddings: Callable[..., str]
) -> Evaluation:
    return Evaluation(tmp_path, tiny_checkpoint, write_part, write_embeddings)


def test_accuracies_and_paired_differences_are_those_of_the_clips_heard_right(evaluation: Evaluation):
    evaluation.add("teacher", ["dog", "rain", "rain", "dog", "dog", "siren"])
    evaluation.add("DU", ["dog", "dog", "rain", "rain", "dog", "siren"])
    summary, found = evaluation.score()
    accuracy = {name: parts["zero_shot"]["esc"]["accuracy"] for name, parts in found["evaluation"].items()}
    assert accuracy == {"teacher": pytest.approx(3 / 6), "DU": pytest.approx(5 / 6)}
    (row,) = found["differences"]
    assert (row["student"], row["baseline"], row["set"]) == ("DU", "teacher", "esc")
    assert row["difference"] == pytest.approx(2 / 6)
    per_class = found["evaluation"]["DU"]["zero_shot"]["esc"]["per_class"]
    assert {label: per_class[label]["accuracy"] for label in LABELS} == {"dog": 1.0, "rain": 1.0, "siren": 0.5}
    assert summary["headline"][0].startswith("esc zero-shot accuracy, teacher: 50.0% [")
    assert "+33.3 points against the teacher" in "\n".join(summary["headline"])


def test_what_each_model_got_right_is_written_clip_by_clip(evaluation: Evaluation):
    evaluation.add("teacher", ["dog"] * 6)
    evaluation.score()
    table = storage.read_table(str(evaluation.root / "scores" / "correct_esc.parquet"))
    assert table["clip_id"].to_pylist() == evaluation.ids
    assert [bool(value) for value in table["teacher"].to_pylist()] == [label == "dog" for label in evaluation.truth]


def test_the_control_is_a_baseline_too(evaluation: Evaluation):
    for name in ("teacher", "control", "DU"):
        evaluation.add(name, ["dog"] * 6)
    pairs = {(row["student"], row["baseline"]) for row in evaluation.score()[1]["differences"]}
    assert pairs == {("control", "teacher"), ("DU", "teacher"), ("DU", "control")}


def test_captions_are_retrieved_where_the_set_has_them(evaluation: Evaluation):
    evaluation.add("teacher", evaluation.truth)
    _, found = evaluation.score()
    retrieval = found["evaluation"]["teacher"]["retrieval"]["esc"]
    assert retrieval["text_to_audio"]["gallery_size"] == 6
    assert 0 <= retrieval["audio_to_text"]["R@1"] <= 1


def test_the_protocol_stands_beside_the_numbers(evaluation: Evaluation):
    evaluation.add("teacher", evaluation.truth)
    protocol = evaluation.score()[1]["evaluation"]["teacher"]["zero_shot"]["esc"]["protocol"]
    assert protocol["sample_rate"] == 8000
    assert protocol["crop_seconds"] == 1.0
    assert protocol["prompt_template"] == SETTINGS.zero_shot.prompt.template


def test_a_rejected_clip_counts_for_no_model_and_a_class_without_clips_stays_a_choice(evaluation: Evaluation):
    evaluation.add("teacher", ["dog", "dog", "rain", "siren"], evaluation.ids[:4])
    _, found = evaluation.score()
    result = found["evaluation"]["teacher"]["zero_shot"]["esc"]
    assert result["num_clips"] == 4
    assert result["accuracy"] == pytest.approx(3 / 4)
    assert result["per_class"]["siren"] == {"accuracy": None, "num_clips": 0}


def test_models_that_could_use_other_clips_are_not_compared(evaluation: Evaluation):
    evaluation.add("teacher", evaluation.truth)
    evaluation.add("DU", evaluation.truth[:4], evaluation.ids[:4])
    with pytest.raises(DataError, match="evaluation set esc: DU could use other clips than the teacher"):
        evaluation.score()


def test_clips_of_several_labels_have_no_accuracy_and_a_set_of_them_is_refused(evaluation: Evaluation):
    evaluation.add("teacher", evaluation.truth)
    rows = [{**row, "labels": ["dog", "rain"]} for row in evaluation.rows]
    corpus = evaluation._part(evaluation.root / "several", rows)
    with pytest.raises(DataError, match="evaluation set esc: no usable clip with exactly one label"):
        evaluation.score(corpora={"esc": corpus})


def test_a_set_without_labels_has_retrieval_only(evaluation: Evaluation):
    evaluation.add("teacher", evaluation.truth)
    rows = [{**row, "labels": []} for row in evaluation.rows]
    _, found = evaluation.score(corpora={"esc": evaluation._part(evaluation.root / "captioned", rows)})
    assert found["evaluation"]["teacher"]["zero_shot"] == {}
    assert "esc" in found["evaluation"]["teacher"]["retrieval"]
    assert found["differences"] == []


def test_the_same_seed_gives_the_same_file(evaluation: Evaluation):
    evaluation.add("teacher", ["dog"] * 6)
    evaluation.add("DU", evaluation.truth)
    assert evaluation.score()[1] == evaluation.score()[1]
    assert np.isfinite(evaluation.score()[1]["differences"][0]["interval"]).all()
