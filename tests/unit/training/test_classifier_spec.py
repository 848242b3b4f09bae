"""Whole runs of a classifier: what is learned, kept and written, how they go on, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_classifying import (
    TEMPLATES,
    WORDS,
    classifier_settings,
    files_of,
    killed,
    tiny_classifier,
    tiny_spec,
    tiny_training,
    trained,
    write_data,
    write_labelled,
)
from tiny_tag_runs import measured, without_times
from tiny_tagging import AUDIO, NAMES, tagged_loader

from raysem import storage
from raysem.audio.augment import AUDIOCLIP_AUGMENTATION
from raysem.errors import ConfigError, DataError
from raysem.models.classifier_checkpoint import load_classifier, read_classifier_config
from raysem.text.encoder import TextEncoderSettings
from raysem.text.prompts import LabelPromptSettings
from raysem.training.classifier_measure import ClassMeasure
from raysem.training.classifier_objective import ClassifierObjectiveSettings
from raysem.training.classifier_spec import places_of, with_epochs
from raysem.training.context import LocalContext, process_settings
from raysem.training.draws import draw_seed
from raysem.training.schedule import Schedule, ScheduleSettings

EXPONENTIAL = ScheduleSettings(kind="exponential", gamma=0.5, steps_per_decay=7)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with process_settings(1, torch.device("cpu")):  # several are slower for so few channels
        yield


def accuracy_on(file: str, model: str, num_clips: int) -> float:
    """Of a written classifier on the clips of a table that have the six labels in turns."""
    places_N = np.arange(num_clips) % 6
    measure = ClassMeasure(tagged_loader(file), 0, places_N, name="clips", batch_size=8, num_threads=2)
    return measure.measure(load_classifier(model), LocalContext())["accuracy"]


# What is learned, kept and written


@pytest.mark.parametrize("similarity", ["cscm", "mean", None])
def test_a_classifier_learns_the_clips_that_it_is_trained_on(
    data: Path, bert_folder: Path, tmp_path: Path, similarity: Any
):
    settings = classifier_settings(bert_folder, similarity)
    training = {"steps": 200, "batch_size": 10, "learning_rate": 5e-3, "keep": "last"}
    result = trained(tiny_spec(tmp_path, data, bert_folder, model=settings, held_out=(), training=training))
    assert accuracy_on(str(data / "main.parquet"), result.model, 30) > 0.6, "chance is 1/6"
    assert (result.best_step, result.history) == (None, [])


def test_the_best_step_by_the_held_out_clips_is_kept_or_the_last_one(data: Path, bert_folder: Path, tmp_path: Path):
    weights = []
    for keep in ("best", "last"):
        training = {"keep": keep, "evaluate_every_steps": 2, "steps": 20, "learning_rate": 2e-2}
        result = trained(tiny_spec(tmp_path / keep, data, bert_folder, training=training))
        values = measured(result, "held_out", "accuracy")
        assert list(values) == list(range(0, 21, 2))
        best = max(list(values)[1:], key=values.__getitem__)
        assert (result.best_step, result.best_metrics) == (best, {"accuracy": values[best], "clips": 13})
        assert best != 20, "the test needs a best step that is not the last"
        kept = best if keep == "best" else 20
        assert accuracy_on(str(data / "held_out.parquet"), result.model, 13) == pytest.approx(values[kept], abs=1e-12)
        assert read_classifier_config(result.model).extra["trained_steps"] == kept
        weights.append(files_of(tmp_path / keep / "model"))
    assert weights[0] != weights[1]


def test_the_written_model_stands_alone_and_tells_what_it_is(data: Path, bert_folder: Path, tmp_path: Path):
    settings = classifier_settings(bert_folder, "cscm", trained=True)
    result = trained(tiny_spec(tmp_path, data, bert_folder, model=settings))
    assert result.model == str(tmp_path / "model")
    config = read_classifier_config(result.model)
    assert config.labels == NAMES
    assert config.extra == {"trained_steps": result.best_step, "seed": 3, "held_out": result.best_metrics}
    assert config.settings.prompts.templates == TEMPLATES
    assert config.settings.label_words == WORDS
    written = load_classifier(result.model)
    assert not written.training
    start = tiny_classifier(settings, seed=draw_seed("initial weights", 3)).state_dict()
    moved = {name: not tensor.equal(start[name]) for name, tensor in written.state_dict().items()}
    for part in ("encoder.", "similarity.", "text_encoder.", "text_projection.", "logit_scale"):
        assert any(changed for name, changed in moved.items() if name.startswith(part)), part


def test_a_frozen_text_encoder_is_written_as_it_was_read(data: Path, bert_folder: Path, tmp_path: Path):
    written = load_classifier(trained(tiny_spec(tmp_path, data, bert_folder)).model).state_dict()
    start = tiny_classifier(classifier_settings(bert_folder), seed=draw_seed("initial weights", 3)).state_dict()
    text = [name for name in written if name.startswith("text_encoder.")]
    assert len(text) > 10
    assert all(written[name].equal(start[name]) for name in text)
    assert not written["text_projection.weight"].equal(start["text_projection.weight"])


def test_layer_decay_lets_the_first_layers_move_least(data: Path, bert_folder: Path, tmp_path: Path):
    """The first step of AdamW is as long as the learning rate, in every element with a gradient."""
    training = {"steps": 1, "keep": "last", "layer_decay": 0.5, "weight_decay": 0.0}
    settings = classifier_settings(bert_folder, "cscm", trained=True)
    spec = tiny_spec(tmp_path, data, bert_folder, model=settings, training=training)
    written = load_classifier(trained(spec).model)
    start = tiny_classifier(settings, seed=draw_seed("initial weights", 3))
    for name, parameter in start.named_parameters():
        depth = 3 if not name.startswith("encoder.") else 0 if ".embeddings." in name else None
        if depth is not None and not name.endswith("key.bias"):  # the softmax does not see it: rounding alone
            longest = float((written.get_parameter(name) - parameter).detach().abs().max())
            assert longest == pytest.approx(1e-2 * 0.5 ** (3 - depth), rel=2e-2), name


# Epochs


def test_epochs_give_the_steps_and_an_exponential_schedule_decays_once_in_each():
    settings = tiny_training(batch_size=16, schedule=ScheduleSettings(kind="exponential", gamma=0.96))
    found = with_epochs(settings, 50, 1600)
    assert (found.steps, found.schedule.steps_per_decay) == (5000, 100)
    schedule = Schedule(found.schedule, found.steps)
    assert [schedule.factor(step) for step in (0, 99, 100, 199, 4999)] == pytest.approx(
        [1, 1, 0.96, 0.96, 0.96**49], rel=1e-12
    )
    assert found == settings.model_copy(update={"steps": found.steps, "schedule": found.schedule})


def test_epochs_count_how_often_a_clip_is_drawn_where_batches_do_not_fill_them():
    settings = tiny_training(batch_size=16, schedule=ScheduleSettings(kind="exponential"))
    found = with_epochs(settings, 10, 100)
    assert (found.steps, found.schedule.steps_per_decay) == (62, 6)
    tiny = with_epochs(settings, 1, 3)  # never 0
    assert (tiny.steps, tiny.schedule.steps_per_decay) == (1, 1)


def test_without_epochs_and_with_other_schedules_settings_stay_as_they_are():
    settings = tiny_training(batch_size=16, schedule=ScheduleSettings(kind="exponential", steps_per_decay=7))
    assert with_epochs(settings, None, 1600) == settings
    for kind in ("constant", "linear", "cosine", "plateau"):
        settings = tiny_training(batch_size=16, schedule=ScheduleSettings(kind=kind))
        assert with_epochs(settings, 2, 160) == settings.model_copy(update={"steps": 20})


def test_a_run_of_epochs_takes_each_clip_as_often_and_decays_its_rate(data: Path, bert_folder: Path, tmp_path: Path):
    training = {
        "batch_size": 10, "steps": 999, "learning_rate": 0.01, "optimizer": "sgd", "log_every_steps": 1, "keep": "last",
        "schedule": EXPONENTIAL,
    }  # fmt: skip
    result = trained(tiny_spec(tmp_path, data, bert_folder, epochs=3, held_out=(), training=training))
    assert (result.steps, result.clips_loaded) == (9, 90)
    rates = [line["learning_rate"] for line in without_times(tmp_path)]
    assert rates == pytest.approx([0.01] * 3 + [0.005] * 3 + [0.0025] * 3)


# Labels


def test_places_are_those_of_the_known_labels():
    found = places_of([("b",), ("a",), ("c",), ("b",)], ("c", "b", "a"), where="here")
    assert found.tolist() == [1, 2, 0, 1]
    assert found.dtype.kind == "i"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "has 0 labels, expected one: []"),
        (["Bark", "Rain"], "has 2 labels, expected one: ['Bark', 'Rain']"),
        (["Drizzle"], "has label 'Drizzle', which is none of the 6 labels"),
    ],
)
def test_a_clip_without_its_one_known_label_is_said_by_its_row_before_the_first_step(
    data: Path, bert_folder: Path, tmp_path: Path, labels: list[str], message: str
):
    odd = (write_labelled(tmp_path / "odd.parquet", 8, labels={5: labels}),)
    for changes, table in (({"sources": odd}, "clips"), ({"held_out": odd}, "held_out")):
        with pytest.raises(DataError) as raised:
            trained(tiny_spec(tmp_path / "out", data, bert_folder, **changes))
        assert str(raised.value) == f"classifier {table}: row 5 {message}"
    assert not (tmp_path / "out").exists()


def test_broken_clips_are_replaced_counted_and_listed(bert_folder: Path, tmp_path: Path):
    data = write_data(tmp_path / "data", broken=(3, 17))
    held_out = (write_labelled(tmp_path / "held.parquet", 13, prefix="held", broken=[6]),)
    changes: dict[str, Any] = {"held_out": held_out, "training": {"max_unusable_share": 0.5}}
    result = trained(tiny_spec(tmp_path / "whole", data, bert_folder, **changes))
    assert result.unusable_outcomes == {"undecodable": result.clips_unusable}
    assert result.clips_unusable > 0
    assert set(measured(result, "held_out", "clips").values()) == {12}
    rejects = storage.read_table(str(tmp_path / "whole" / "rejects.parquet")).to_pylist()
    listed = sorted((row["stage"], row["clip_id"]) for row in rejects)
    assert listed == [("held_out", "held-0006"), ("train", "main-0003"), ("train", "main-0017")]


# What is refused


def changes_of(text: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Other settings of `tiny_spec`, and what is said of them."""
    hashes = r"initial_model: '\w+' -> '\w+'"
    other_words = classifier_settings(text, label_words=WORDS | {"Meow": "loud cat"})
    other_templates = classifier_settings(text, prompts=LabelPromptSettings(templates=TEMPLATES[:1]))
    longer = TextEncoderSettings(name=str(text), max_tokens=21)
    return {
        "form": ({"objective": ClassifierObjectiveSettings(form="diagonal")},
                 r"objective.form: 'multi_positive' -> 'diagonal'"),
        "augmentation": ({"augmentation": AUDIOCLIP_AUGMENTATION}, r"augmentation.reversal_probability: None -> 0.5"),
        "audio": ({"audio": AUDIO.model_copy(update={"silence_dbfs": -60.0})}, r"audio.silence_dbfs: -80.0 -> -60.0"),
        "similarity": ({"model": classifier_settings(text, "cscm")}, hashes),
        "words": ({"model": other_words}, hashes),
        "templates": ({"model": other_templates}, hashes),
        "tokens": ({"model": classifier_settings(text).model_copy(update={"text": longer})}, hashes),
        "labels": ({"labels": NAMES[::-1]}, hashes),
        "epochs": ({"epochs": 4}, r"training.steps: 8 -> 15"),
        "optimizer": ({"training": {"optimizer": "sgd"}}, r"training.optimizer: 'adamw' -> 'sgd'"),
        "held-out clips": ({"held_out": (), "training": {"keep": "last"}}, r"rows.held_out: 13 -> None"),
    }  # fmt: skip


def test_another_run_in_the_same_output_is_refused_with_the_difference(data: Path, bert_folder: Path, tmp_path: Path):
    killed(tiny_spec(tmp_path / "begun", data, bert_folder), 6)
    result = trained(tiny_spec(tmp_path / "finished", data, bert_folder))
    for name in ("begun", "finished"):
        for changes, line in changes_of(bert_folder).values():
            with pytest.raises(ConfigError, match=line) as raised:
                trained(tiny_spec(tmp_path / name, data, bert_folder, **changes))
            assert "belongs to a run with other settings" in str(raised.value)
            assert "\n" not in str(raised.value)
    assert trained(tiny_spec(tmp_path / "finished", data, bert_folder, training={"loader_threads": 1})) == result


def test_the_name_of_a_run_is_that_of_its_settings(data: Path, bert_folder: Path, tmp_path: Path):
    spec = tiny_spec(tmp_path, data, bert_folder)
    assert spec.run_name == tiny_spec(tmp_path, data, bert_folder).run_name
    assert spec.run_name.startswith("classifier-")
    others = [tiny_spec(tmp_path, data, bert_folder, **changes) for changes, _ in changes_of(bert_folder).values()]
    others += [replace(spec, seed=4), replace(spec, output=str(tmp_path / "other")), replace(spec, name="other")]
    others += [replace(spec, sources=(*spec.sources, "more.parquet")), replace(spec, training=tiny_training(steps=9))]
    assert len({found.run_name for found in (spec, *others)}) == len(others) + 1


def test_the_name_of_a_run_is_one_folder(data: Path, bert_folder: Path, tmp_path: Path):
    first, second = (
        tiny_spec(tmp_path, data, bert_folder, name=name).run_name for name in ("cscm/fold 1", "cscm-fold 1")
    )
    assert first.startswith("cscm-fold 1-")
    assert "/" not in first + second
    assert first != second


def test_settings_that_cannot_work_are_refused_in_one_line(data: Path, bert_folder: Path, tmp_path: Path):
    for metric in ("held_out_loss", "recall_at_1", "map", "omap"):
        with pytest.raises(
            ConfigError,
            match=rf"^classifier: training.selection_metric {metric} is not measured on classes; take accuracy$",
        ):
            tiny_spec(tmp_path, data, bert_folder, training={"selection_metric": metric})
        tiny_spec(tmp_path, data, bert_folder, held_out=(), training={"selection_metric": metric})
    for changes in ({}, {"keep": "last", "schedule": ScheduleSettings(kind="plateau")}):
        with pytest.raises(ConfigError, match="keep: best, and a plateau schedule, need held-out clips"):
            trained(tiny_spec(tmp_path, data, bert_folder, held_out=(), training=changes))
    same = classifier_settings(bert_folder, label_words=WORDS | {"Rain": "cat"})
    with pytest.raises(ConfigError, match="prompts: labels 'Meow' and 'Rain' have the same prompt 'the sound of cat'"):
        trained(tiny_spec(tmp_path, data, bert_folder, model=same))
    assert not any(tmp_path.iterdir())
