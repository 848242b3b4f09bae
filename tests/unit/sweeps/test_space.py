from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raysem import config
from raysem.errors import ConfigError, UserError
from raysem.sweeps.space import SweepSpace, check_values, load_space

THRESHOLD, ALPHA = "curation.similarity_threshold", "student.objective.soft_label_weight"
GRID: dict[str, Any] = {
    "keys": {THRESHOLD: {"grid": [0.5, 0.7]}, ALPHA: {"grid": [0.0, 0.3, 1.0]}},
    "metric": "recall_at_1",
}


def space(**changes: Any) -> SweepSpace:
    return config.build(SweepSpace, {**GRID, **changes})


def refused(**changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        space(**changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_grid_tries_every_combination_with_every_seed_once():
    found = space(keys={**GRID["keys"], "seed": {"grid": [0, 1]}}).trials()
    assert len({trial.id for trial in found}) == len(found) == 2 * 3 * 2
    assert {(trial.params[THRESHOLD], trial.params[ALPHA], trial.seed) for trial in found} == {
        (threshold, alpha, seed) for threshold in (0.5, 0.7) for alpha in (0.0, 0.3, 1.0) for seed in (0, 1)
    }
    assert list(found[0].params) == [THRESHOLD, ALPHA]
    assert found[0].overrides == [(THRESHOLD, 0.5), (ALPHA, 0.0), ("seed", 0)]


def test_random_draws_lie_in_their_ranges_and_each_is_tried_with_every_grid_and_seed():
    keys = {
        THRESHOLD: {"uniform": [0.5, 0.8]},
        "student.training.learning_rate": {"loguniform": [1e-5, 1e-2]},
        ALPHA: {"choice": [0.0, 0.3]},
        "curation.strategy": {"grid": ["DU", "ADS"]},
        "seed": {"grid": [3, 4]},
    }
    found = space(keys=keys, search={"kind": "random", "trials": 200}).trials()
    assert len(found) == 200 * 2 * 2
    rates = sorted({trial.params["student.training.learning_rate"] for trial in found})
    assert len(rates) == 200
    assert 1e-5 <= rates[0] < rates[-1] <= 1e-2
    assert 45 <= sum(rate < 1e-4 for rate in rates) <= 90  # of 200; a third is expected, uniformly one in 100
    assert all(0.5 <= trial.params[THRESHOLD] <= 0.8 for trial in found)
    assert {trial.params[ALPHA] for trial in found} == {0.0, 0.3}
    by_rate = {(trial.params["curation.strategy"], trial.seed) for trial in found[:4]}
    assert by_rate == {("DU", 3), ("DU", 4), ("ADS", 3), ("ADS", 4)}
    assert len({trial.params[THRESHOLD] for trial in found[:4]}) == 1


def test_draws_depend_on_the_seed_of_the_search_alone():
    keys = {THRESHOLD: {"uniform": [0.5, 0.8]}}

    def ids(seed: int) -> list[str]:
        return [t.id for t in space(keys=keys, search={"kind": "random", "trials": 5, "seed": seed}).trials()]

    assert ids(0) == ids(0) != ids(1)


def test_a_setting_drawn_twice_is_one_trial():
    keys = {ALPHA: {"choice": [0.0, 0.3]}}
    assert len(space(keys=keys, search={"kind": "random", "trials": 30}).trials()) == 2


def test_a_trial_is_known_by_its_values_whatever_their_order():
    first, *_ = space().trials()
    other, *_ = space(keys=dict(reversed(GRID["keys"].items()))).trials()
    assert dict(first.params) == dict(other.params)
    assert first.id == other.id


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ({}, "expected one of grid, choice, uniform, loguniform, got none"),
        ({"grid": [1], "choice": [1]}, "expected one of grid, choice, uniform, loguniform, got grid, choice"),
        ({"grid": []}, "grid: is empty"),
        ({"choice": [1, 1]}, "choice: 1 is listed twice"),
        ({"uniform": [0.8, 0.5]}, "uniform: the range [0.8, 0.5] is empty"),
        ({"uniform": [0.5, 0.5]}, "uniform: the range [0.5, 0.5] is empty"),
        ({"loguniform": [0, 1]}, "loguniform: the range [0, 1] has to begin above 0"),
        ({"uniform": [0.5]}, "uniform"),
        ({"uniform": ["a", "b"]}, "uniform"),
        ({"range": [0, 1]}, "range: no such key"),
    ],
)
def test_an_impossible_key_is_refused_in_one_line(key: dict[str, Any], said: str):
    message = refused(keys={THRESHOLD: key})
    assert said in message
    assert THRESHOLD in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keys": {}}, "keys"),
        ({"keys": {THRESHOLD: {"uniform": [0.5, 0.8]}}}, f"keys.{THRESHOLD}: search grid needs a list of values"),
        ({"search": {"kind": "grid", "trials": 3}}, "search.trials: search grid tries all"),
        ({"search": {"kind": "random"}}, "search.trials: search random needs a number"),
        ({"search": {"kind": "random", "trials": 3}}, "random has nothing to draw"),
        ({"search": {"kind": "tpe", "trials": 3}}, "tpe chooses values itself: write choice in place of grid"),
        ({"keys": {"seed": {"grid": [0, 1]}}}, "seed: is the only key"),
        ({"keys": {**GRID["keys"], "seed": {"grid": [0.5]}}}, "seed: expected a grid of whole numbers"),
        ({"keys": {**GRID["keys"], "seed": {"choice": [1, 2]}}}, "seed: expected a grid of whole numbers"),
        ({"keys": {**GRID["keys"], "curation": {"grid": [1]}}}, f"curation: holds {THRESHOLD}, which is swept too"),
        ({"set": {THRESHOLD: 0.6}}, f"set.{THRESHOLD}: is swept, too"),
        ({"scheduler": {"kind": "asha", "reduction_factor": 1}}, "scheduler.reduction_factor"),
        ({"direction": "up"}, "direction"),
        ({"metrics": "x"}, "metrics: no such key (did you mean metric?)"),
        (
            {
                "keys": {ALPHA: {"uniform": [0, 1]}, "seed": {"grid": [0, 1]}},
                "search": {"kind": "tpe", "trials": 3},
                "scheduler": {"kind": "median"},
            },
            "tpe learns from the mean over seeds",
        ),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_in_one_line(changes: dict[str, Any], said: str):
    assert said in refused(**changes)


class Inner(config.Settings):
    share: float = 0.5
    count: int = 3


class Recipe(config.Settings):
    inner: Inner = Inner()
    name: str = "a"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"inner.shre": {"grid": [0.1]}}, "inner.shre: no such key (did you mean share?)"),
        ({"outer.share": {"grid": [0.1]}}, "outer: no such key"),
        ({"inner.share": {"grid": [0.1, "x"]}}, "inner.share: expected a valid number, got 'x'"),
        ({"inner.count": {"uniform": [1, 4]}}, "inner.count: expected a valid integer"),
        ({"name.first": {"grid": ["x"]}}, "name.first: name is a value"),
    ],
)
def test_keys_and_values_that_a_recipe_cannot_have_are_refused(keys: dict[str, Any], said: str):
    search = {"kind": "grid"} if all("grid" in key for key in keys.values()) else {"kind": "random", "trials": 1}
    with pytest.raises(ConfigError) as error:
        check_values(space(keys=keys, search=search), Recipe, config.plain(Recipe()), "space.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_space_file_that_is_not_there_names_those_beside_it(tmp_path: Path):
    (tmp_path / "one.yaml").write_text("")
    with pytest.raises(UserError, match=r"other.yaml: no such file; in that folder there are \['one.yaml'\]"):
        load_space(str(tmp_path / "other.yaml"))
