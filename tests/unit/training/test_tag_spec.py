"""Whole runs of a tagger: what is kept and written, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tag_runs import Recording, killed, measured, recording, trained, weights_of
from tiny_tagging import (
    AUDIO,
    NAMES,
    SPA,
    ast_settings,
    cnn14_settings,
    tiny_classes,
    tiny_spec,
    tiny_training,
    write_data,
    write_tagged,
)

from raysem.audio.augment import AugmentSettings
from raysem.errors import ConfigError, DataError
from raysem.models.layer_depth import layer_depths
from raysem.models.tagger import build_tagger
from raysem.models.tagger_checkpoint import load_tagger, read_tagger_config
from raysem.training.context import process_settings
from raysem.training.draws import draw_seed
from raysem.training.tag_examples import MixupSettings
from raysem.training.tag_objective import TagObjectiveSettings

AUGMENTATION = AugmentSettings(gain_db=(-6.0, 6.0), time_shift_seconds=0.05)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with process_settings(1, torch.device("cpu")):  # several are slower for so few channels
        yield


@pytest.fixture
def recorded() -> Iterator[list[Recording]]:
    """The objectives of the runs that follow."""
    with recording() as found:
        yield found


@pytest.mark.parametrize("metric", ["map", "omap"])
def test_the_best_step_by_the_held_out_clips_is_kept_or_the_last_one(
    data: Path, tmp_path: Path, recorded: list[Recording], metric: str
):
    for keep in ("best", "last"):
        training = {"keep": keep, "selection_metric": metric, "evaluate_every_steps": 2}
        result = trained(tiny_spec(tmp_path / keep, data, objective=SPA, training=training))
        values = measured(result, "held_out", metric)
        assert list(values) == [0, 2, 4, 6, 8]
        best = max(list(values)[1:], key=values.__getitem__)
        assert result.best_step == best
        assert result.best_metrics[metric] == values[best]
        assert best != 8, "the test needs a best step that is not the last"
        written = load_tagger(result.model)
        expected = recorded[-1].weights_after[(best if keep == "best" else 8) - 1]
        assert all(torch.equal(tensor, expected[name]) for name, tensor in written.named_parameters())
        assert read_tagger_config(result.model).extra["trained_steps"] == (best if keep == "best" else 8)


def test_without_held_out_clips_the_last_step_is_kept(data: Path, tmp_path: Path, recorded: list[Recording]):
    result = trained(tiny_spec(tmp_path, data, held_out=(), training={"keep": "last"}))
    assert (result.best_step, result.history) == (None, [])
    expected = recorded[0].weights_after[-1]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_tagger(result.model).named_parameters())


def test_watched_sets_are_measured_and_choose_nothing(data: Path, tmp_path: Path):
    wrong = {clip: [NAMES[(clip + 3) % 6]] for clip in range(13)}
    watched = {
        "test": (str(data / "test.parquet"),),
        "wrong": (write_tagged(tmp_path / "wrong.parquet", 13, prefix="held", labels=wrong),),
    }
    training = {"evaluate_every_steps": 2}
    alone = trained(tiny_spec(tmp_path / "alone", data, objective=SPA, training=training))
    result = trained(tiny_spec(tmp_path / "watched", data, objective=SPA, training=training, watched=watched))
    assert weights_of(tmp_path / "alone") == weights_of(tmp_path / "watched")
    assert (result.best_step, result.best_metrics) == (alone.best_step, alone.best_metrics)
    for name, num_clips in (("test", 11), ("wrong", 13)):
        assert set(measured(result, name, "clips").values()) == {num_clips}
        assert list(measured(result, name, "omap")) == [0, 2, 4, 6, 8]
    by_wrong = measured(result, "wrong", "omap")
    assert max(list(by_wrong)[1:], key=by_wrong.__getitem__) != result.best_step, "it would have chosen another step"
    only_watched = {"held_out": (), "watched": watched, "training": {**training, "keep": "last"}}
    last = trained(tiny_spec(tmp_path / "last", data, objective=SPA, **only_watched))
    assert (last.best_step, last.best_metrics) == (None, {})
    assert measured(last, "test", "omap")[8] == measured(result, "test", "omap")[8]


def test_the_measured_numbers_are_those_of_the_written_tagger(data: Path, tmp_path: Path):
    spec = tiny_spec(tmp_path, data, objective=SPA, training={"weight_average": 0.5})
    result = trained(spec)
    from_it = replace(spec, output=str(tmp_path / "next"), initial_model=result.model)
    again = trained(from_it)
    assert again.history[0] == {"step": 0, "kind": "held_out", **result.best_metrics}


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_weights_written_are_the_averaged_ones(data: Path, tmp_path: Path, recorded: list[Recording], keep: str):
    spec = tiny_spec(
        tmp_path, data, objective=SPA, training={"weight_average": 0.7, "keep": keep, "evaluate_every_steps": 2}
    )
    result = trained(spec)
    steps = result.best_step if keep == "best" else 8
    assert steps is not None
    classes = tiny_classes()
    start = build_tagger(spec.model, classes.names, classes.ids, 5, seed=draw_seed("initial weights", 3))
    average = {name: parameter.detach().double() for name, parameter in start.named_parameters()}
    for update, weights in enumerate(recorded[0].weights_after[:steps]):
        decay = min(0.7, (1 + update) / (10 + update))
        average = {name: decay * tensor + (1 - decay) * weights[name] for name, tensor in average.items()}
    written = load_tagger(result.model)
    for name, parameter in written.named_parameters():
        torch.testing.assert_close(parameter.double(), average[name], rtol=1e-5, atol=1e-7, msg=name)
    raw = recorded[0].weights_after[steps - 1]
    assert max(float((p.detach() - raw[name]).abs().max()) for name, p in written.named_parameters()) > 1e-3
    buffers = recorded[0].buffers_after[steps - 1]
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in written.named_buffers())


def test_layer_decay_lets_the_first_layers_move_least(data: Path, tmp_path: Path):
    """The first step of AdamW is as long as the learning rate, in every element with a gradient."""
    training = {"steps": 1, "keep": "last", "layer_decay": 0.5, "weight_decay": 0.0}
    spec = tiny_spec(tmp_path, data, model=ast_settings(), objective=SPA, training=training)
    written, classes = load_tagger(trained(spec).model), tiny_classes()
    start = build_tagger(spec.model, classes.names, classes.ids, 5, seed=draw_seed("initial weights", 3))
    depths = layer_depths(written)
    assert set(depths.values()) == {0, 1, 2, 3}
    for name, parameter in start.named_parameters():
        if not name.endswith("k_proj.bias"):  # the softmax does not see it: no gradient but rounding
            longest = float((written.get_parameter(name) - parameter).detach().abs().max())
            assert longest == pytest.approx(1e-2 * 0.5 ** (3 - depths[name]), rel=1e-2), name


def test_the_written_tagger_knows_its_classes_and_their_parents(data: Path, tmp_path: Path):
    spec = tiny_spec(tmp_path, data, training={"steps": 2})
    config = read_tagger_config(trained(spec).model)
    assert config.class_names == NAMES
    assert config.class_ids == tiny_classes().ids
    assert config.extra["parents"]["Choir"] == ["Singing", "Musical instrument"]
    assert list(config.extra["parents"]) == list(NAMES)
    assert config.extra["seed"] == 3


def test_training_raises_the_held_out_map(data: Path, tmp_path: Path):
    training = {"steps": 60, "evaluate_every_steps": 20, "weight_average": 0.9}
    result = trained(tiny_spec(tmp_path, data, model=cnn14_settings(dropout=0.0), objective=SPA, training=training))
    values = measured(result, "held_out", "map")
    assert max(values.values()) > values[0] + 0.15


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "objective": ({"objective": SPA}, r"objective.obce_weight: 0.0 -> 0.5; objective.spa_weight: 0.0 -> 2.0"),
    "beta": ({"objective": TagObjectiveSettings(obce_beta=2)}, r"objective.obce_beta: 1.0 -> 2.0"),
    "mixup": ({"mixup": MixupSettings(probability=0.5)}, r"mixup.probability: 0.0 -> 0.5"),
    "sampling": ({"sampling": "balanced"}, r"sampling: 'uniform' -> 'balanced'"),
    "augmentation": ({"augmentation": AUGMENTATION}, r"augmentation.gain_db: \[0.0, 0.0\] -> \[-6.0, 6.0\]"),
    "audio": ({"audio": AUDIO.model_copy(update={"silence_dbfs": -60.0})}, r"audio.silence_dbfs: -80.0 -> -60.0"),
    "model": ({"model": cnn14_settings(head_dropout=0.1)}, r"initial_model: '\w+' -> '\w+'"),
    "training": ({"training": {"layer_decay": 0.9}}, r"training.layer_decay: 1.0 -> 0.9"),
    "held-out clips": ({"held_out": (), "training": {"keep": "last"}}, r"rows.held_out: 13 -> None"),
}


def test_an_unknown_label_of_any_table_is_said_by_name_before_the_first_step(data: Path, tmp_path: Path):
    odd = (write_tagged(tmp_path / "odd.parquet", 4, labels={2: ["Drizzle"]}),)
    for changes, table in (
        ({"sources": odd}, "clips"),
        ({"held_out": odd}, "held_out"),
        ({"watched": {"test": odd}}, "test"),
    ):
        with pytest.raises(DataError, match=f"^tagger {table}: label 'Drizzle' is none of the 6 classes"):
            trained(tiny_spec(tmp_path / "out", data, **changes))
    assert not (tmp_path / "out").exists()


def test_another_run_in_the_same_output_is_refused_with_the_difference(data: Path, tmp_path: Path):
    killed(tiny_spec(tmp_path / "begun", data), 6)
    result = trained(tiny_spec(tmp_path / "finished", data))
    for name in ("begun", "finished"):
        for changes, line in CHANGES.values():
            with pytest.raises(ConfigError, match=line) as raised:
                trained(tiny_spec(tmp_path / name, data, **changes))
            assert "belongs to a run with other settings" in str(raised.value)
            assert "\n" not in str(raised.value)
    assert trained(tiny_spec(tmp_path / "finished", data, training={"loader_threads": 1})) == result


def test_an_initial_model_is_where_the_run_starts_and_needs_the_same_classes(
    data: Path, tmp_path: Path, recorded: list[Recording]
):
    result = trained(tiny_spec(tmp_path / "first", data))
    slow = {"learning_rate": 1e-9, "steps": 1, "keep": "last"}
    spec = tiny_spec(tmp_path / "second", data, initial_model=result.model, model=ast_settings(), training=slow)
    second = load_tagger(trained(spec).model)
    for name, parameter in load_tagger(result.model).named_parameters():
        torch.testing.assert_close(second.get_parameter(name), parameter, rtol=0, atol=1e-7)
    others = tiny_classes(("Meow", "Bark", *NAMES[2:]))
    others.write(str(tmp_path / "others"))
    with pytest.raises(ConfigError, match="first/model: has other classes than this run"):
        trained(tiny_spec(tmp_path / "third", data, classes=str(tmp_path / "others"), initial_model=result.model))


def test_settings_that_cannot_work_are_refused_in_one_line(data: Path, tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"training.selection_metric held_out_loss is measured on pairs; take map or omap"
    ):
        tiny_spec(tmp_path, data, training={"selection_metric": "held_out_loss"})
    with pytest.raises(ConfigError, match="keep: best, and a plateau schedule, need held-out clips"):
        trained(tiny_spec(tmp_path, data, held_out=()))
    watched = {"watched": {"test": (str(data / "test.parquet"),)}, "held_out": ()}
    with pytest.raises(ConfigError, match="keep: best, and a plateau schedule, need held-out clips"):
        trained(tiny_spec(tmp_path, data, **watched))


@pytest.mark.parametrize("name", ["main", "held_out", "train"])
def test_a_watched_set_cannot_take_the_place_of_a_part_of_training(data: Path, tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match=f"^tagger: an evaluation set cannot be called {name}, which names a part"):
        tiny_spec(tmp_path, data, watched={name: (str(data / "test.parquet"),)})


def test_the_name_of_a_run_is_that_of_its_settings(data: Path, tmp_path: Path):
    spec = tiny_spec(tmp_path, data)
    assert spec.run_name == tiny_spec(tmp_path, data).run_name
    assert spec.run_name.startswith("tagger-")
    others = [tiny_spec(tmp_path, data, **changes).run_name for changes, _ in CHANGES.values()]
    others += [replace(spec, seed=4).run_name, replace(spec, output=str(tmp_path / "other")).run_name]
    others += [replace(spec, training=tiny_training(steps=9)).run_name, replace(spec, name="other").run_name]
    assert len({spec.run_name, *others}) == len(others) + 1
    assert {name.partition("-")[0] for name in others} == {"other", "tagger"}
