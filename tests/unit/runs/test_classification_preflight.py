"""What the driver finds wrong with a cross-validation before Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysem import config, storage
from raysem.errors import ConfigError
from raysem.models.pretrained import EncoderSource
from raysem.runs.classification import JOB
from raysem.runs.classification_preflight import check, check_resources
from raysem.runs.classification_recipe import ClassificationRecipe
from raysem.runs.preflight import check_starts
from raysem.stages import Stage, run_stages

Check = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that may have any number of GPUs, and 100 GiB free."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(storage, "free_bytes", lambda location: 100 * 2**30)


@pytest.fixture
def corpus(tmp_path: Path, write_part: Callable[..., str]) -> str:
    """Two folds, each with clips of two labels whose prompts are one."""
    rows = [
        {"clip_id": f"{fold}{label}", "labels": [label], "fold": fold}
        for fold in (1, 2)
        for label in ("Dog_bark", "dog bark", "Rain")
    ]
    return write_part(tmp_path / "corpus", rows)


@pytest.fixture
def recipe(corpus: str) -> Callable[..., ClassificationRecipe]:
    def build(**changes: Any) -> ClassificationRecipe:
        base = {
            "corpora": {"clips": [{"corpus": "clips_table", "root": corpus}]},
            "folds": {"official": [1, 2]},
            "classifier": {"training": {"selection_metric": "accuracy"}},
        }
        return config.build(ClassificationRecipe, config.with_overrides(base, changes.items()))

    return build


@pytest.fixture
def checked(recipe: Callable[..., ClassificationRecipe], tmp_path: Path) -> Check:
    return lambda **changes: check(recipe(**changes), str(tmp_path / "out"), [Stage("a", lambda folder: {})])


def variants(**changes: Any) -> dict[str, Any]:
    return {"variants": {"a": {}, "b": changes}}


def test_a_sound_recipe_passes_without_a_warning(checked: Check):
    assert checked() == []


@pytest.mark.parametrize("named", [False, True])
def test_a_plateau_needs_held_out_clips(named: bool, checked: Check):
    plateau = {"classifier.training.schedule.kind": "plateau"}
    key = "variants.b.classifier" if named else "classifier"
    reason = "plateau is seen on held-out clips; give folds.held_out_share"
    with pytest.raises(ConfigError) as error:
        checked(**variants(**plateau) if named else plateau)
    assert str(error.value) == f"{key}.training.schedule.kind: {reason}"
    assert checked(**plateau, **{"folds.held_out_share": 0.2}) == []


@pytest.mark.parametrize("metric", ["held_out_loss", "map", "omap", "recall_at_1"])
def test_classes_are_chosen_by_accuracy_alone(metric: str, checked: Check):
    with pytest.raises(ConfigError) as error:
        checked(**variants(**{"classifier.training.selection_metric": metric}))
    reason = f"{metric} is not measured on classes; take accuracy"
    assert str(error.value) == f"variants.b.classifier.training.selection_metric: {reason}"


def test_a_start_that_is_not_there_is_named_with_its_variant(checked: Check, tmp_path: Path):
    start = {
        "classifier.model.encoder": "cnn14",
        "classifier.model.start": {"kind": "panns", "location": str(tmp_path / "cnn14.pth")},
    }
    with pytest.raises(ConfigError) as error:
        checked(**variants(**start))
    where = "variants.b.classifier.model.start.location"
    assert str(error.value) == f"{where}: {tmp_path}/cnn14.pth: no such file or folder"
    (tmp_path / "cnn14.pth").touch()
    assert checked(**variants(**start)) == []


def test_a_start_may_be_a_folder_or_for_ast_a_name_on_the_hub(tmp_path: Path):
    check_starts(
        {
            "random": None,
            "folder": EncoderSource(kind="tagger", location=str(tmp_path), encoder="cnn14_tiny"),
            "name": EncoderSource(kind="ast", location="MIT/ast-finetuned-audioset-10-10-0.4593"),
        }
    )
    missing = EncoderSource(kind="tagger", location=str(tmp_path / "tagger"), encoder="cnn14_tiny")
    with pytest.raises(ConfigError, match=r"^second\.model\.start\.location: .*/tagger: no such file or folder$"):
        check_starts({"first": None, "second": missing, "third": missing})


def test_a_batch_is_shared_evenly_by_the_workers(checked: Check):
    with pytest.raises(ConfigError, match=r"^classifier\.training\.batch_size: 16 is no multiple of .* = 3$"):
        checked(**{"cluster.training_workers": 3, "classifier.training.batch_size": 16})


def test_a_root_that_is_not_there_is_named(checked: Check, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^corpora\.clips: root .*/nothing: no such file or folder"):
        checked(**{"corpora.clips.0.root": str(tmp_path / "nothing")})


def test_an_unknown_baseline_is_found_too(checked: Check):
    with pytest.raises(ConfigError, match=r"^evaluation\.baseline: no classifier 'c'; there are a, b$"):
        checked(**variants(), **{"evaluation.baseline": "c"})


SAME = "labels 'Dog_bark' and 'dog bark' have the same prompt 'an audio clip of dog bark'"


def test_named_labels_with_one_prompt_are_refused_with_the_variants_key(checked: Check):
    labels = {"labels": ["Dog_bark", "Rain", "dog bark"]}
    with pytest.raises(ConfigError) as error:
        checked(**labels)
    assert str(error.value) == f"classifier.model.prompts.templates: {SAME}"
    without = {"a": {"classifier.model.similarity": None}, "b": {}}
    with pytest.raises(ConfigError) as error:
        checked(**labels, variants=without)
    assert str(error.value) == f"variants.b.classifier.model.prompts.templates: {SAME}"


def test_words_for_a_label_that_there_is_not_are_named(checked: Check):
    with pytest.raises(ConfigError, match=r"classifier\.model\.label_words: no label 'rain'; there are Dog_bark, Rain"):
        checked(labels=["Dog_bark", "Rain"], **{"classifier.model.label_words": {"rain": "rainfall"}})


def test_a_label_s_own_words_tell_it_apart(checked: Check):
    labels = {"labels": ["Dog_bark", "Rain", "dog bark"]}
    assert checked(**labels, **{"classifier.model.label_words": {"dog bark": "the bark of a dog"}}) == []
    with pytest.raises(ConfigError, match=r"labels 'Dog_bark' and 'dog bark' have the same prompt"):
        checked(**labels, **{"classifier.model.label_words": {"dog bark": "dog_bark"}})


def test_without_text_labels_need_no_prompts(checked: Check):
    assert checked(labels=["Dog_bark", "Rain", "dog bark"], **{"classifier.model.similarity": None}) == []


def test_the_labels_of_the_corpus_are_checked_once_they_are_read(
    recipe: Callable[..., ClassificationRecipe], tmp_path: Path
):
    """All that is not named by the recipe is known then, and Ray has not been started."""
    output, given = str(tmp_path / "out"), recipe(**variants(**{"classifier.model.similarity": None}))
    stages = JOB.stages(given, output)
    assert check(given, output, stages) == []
    run_stages(stages, output, until="labels")
    with pytest.raises(ConfigError) as error:
        check_resources(given, output, stages)
    assert str(error.value) == f"variants.a.classifier.model.prompts.templates: {SAME}"


def test_a_run_that_is_finished_asks_for_no_cluster(
    recipe: Callable[..., ClassificationRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nobody answers there
    output, given = str(tmp_path / "out"), recipe()
    stages = JOB.stages(given, output)
    run_stages(stages, output, until="labels")
    assert check(given, output, stages[:3]) == []
