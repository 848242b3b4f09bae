"""Optuna in a sweep, without a cluster: what it is told of trials before, and what becomes of its suggestions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raysem.sweeps.ray_look import METRIC, trial_of
from raysem.sweeps.ray_trials import make_scheduler, make_search
from raysem.sweeps.space import SweepSpace
from raysem.sweeps.trial import Trial, TrialRecord, TrialRecords

KEYS: dict[str, Any] = {
    "curation.similarity_threshold": {"uniform": [0.0, 1.0]},
    "student.objective.soft_label_form": {"choice": ["raw", {"name": "softmax"}, None]},
    "seed": {"grid": [4, 9]},
}


def space(**changes: Any) -> SweepSpace:
    content = {"keys": KEYS, "metric": "m", "search": {"kind": "tpe", "trials": 3, "seed": 0}, **changes}
    if "scheduler" in changes:
        content["keys"] = {name: key for name, key in KEYS.items() if name != "seed"}
    return SweepSpace(**content)


@pytest.fixture
def records(tmp_path: Path) -> TrialRecords:
    return TrialRecords(str(tmp_path))


def suggestions(
    searched: SweepSpace, records: TrialRecords, count: int, metric: Any = lambda trial: 0.0
) -> list[Trial]:
    """The first trials of a search in which each ends before the next begins."""
    search = make_search(searched, records)
    found = []
    for number in range(count):
        trial = trial_of(search.suggest(str(number)), searched)
        search.on_trial_complete(str(number), {METRIC: metric(trial)})
        found.append(trial)
    return found


def test_each_setting_is_tried_with_every_seed_before_the_next(records: TrialRecords):
    found = suggestions(space(), records, 6)
    assert [trial.seed for trial in found] == [4, 9] * 3
    assert [dict(trial.params) for trial in found[::2]] == [dict(trial.params) for trial in found[1::2]]
    forms = KEYS["student.objective.soft_label_form"]["choice"]
    assert all(trial.params["student.objective.soft_label_form"] in forms for trial in found)
    assert len({trial.id for trial in found}) == 6


def test_a_search_that_goes_on_begins_with_the_settings_it_had_tried(records: TrialRecords):
    before = suggestions(space(), records, 4)
    for trial in (*before[:2], before[2]):  # the third was alone when the sweep was killed
        records.write(replace(TrialRecord.begun(trial), status="finished", metric=0.5))
    again = suggestions(space(), records, 6)
    assert {trial.id for trial in again[:4]} == {trial.id for trial in before}
    assert not {trial.id for trial in again[4:]} & {trial.id for trial in before}


@pytest.mark.parametrize(("direction", "sign"), [("max", 1.0), ("min", -1.0)])
def test_the_search_comes_near_to_the_best_value(direction: str, sign: float, records: TrialRecords):
    searched = space(
        keys={"x": {"uniform": [0.0, 1.0]}, "seed": {"grid": [0, 1]}}, direction=direction,
        search={"kind": "tpe", "trials": 40},
    )  # fmt: skip

    def metric(trial: Trial) -> float:
        noise = 0.5 if trial.seed else -0.5  # the mean over the two seeds is what counts
        return sign * (noise - (trial.params["x"] - 0.7) ** 2)

    found = [trial.params["x"] for trial in suggestions(searched, records, 80, metric)]
    late = found[40:]
    assert sum(abs(x - 0.7) < 0.15 for x in late) > len(late) / 2


def test_a_scheduler_looks_at_training_steps_and_stops_nothing_that_has_ended():
    asha = make_scheduler(space(scheduler={"kind": "asha"}), 400, 20)
    median = make_scheduler(space(scheduler={"kind": "median", "grace_steps": 60, "min_trials": 5}), 400, 20)
    assert (asha._time_attr, asha._max_t) == ("step", 401)
    assert (median._time_attr, median._grace_period, median._min_samples_required) == ("step", 60, 5)
