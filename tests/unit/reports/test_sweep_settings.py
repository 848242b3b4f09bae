from __future__ import annotations

import math
from typing import Any

import pytest

from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial
from raysem.reports.sweep_labels import (
    breakable,
    clipped,
    key_value_text,
    metric_text,
    setting_text,
    short_names,
    spread_text,
    value_text,
)
from raysem.reports.sweep_settings import is_best, settings_of, value_key, values_of

KEY = SweepKey("curation.similarity_threshold", "grid", [0.5, 0.6, 0.7, 0.8])


def trial(name: str, value: Any, seed: int | None, metric: float | None, status: Any = "finished", **more: Any):
    return SweepTrial(name, {KEY.name: value}, seed, status, metric=metric, **more)


def report(*trials: SweepTrial, **changes: Any) -> SweepReport:
    return SweepReport("t", keys=[KEY], trials=trials, **changes)


def test_seeds_of_one_setting_have_the_mean_and_the_samples_deviation():
    (setting,) = settings_of(report(trial("b", 0.5, 1, 0.9), trial("a", 0.5, 0, 0.6), trial("c", 0.5, 2, 0.6)))
    assert [one.id for one in setting.trials] == ["a", "b", "c"]
    assert setting.mean == pytest.approx(0.7)
    assert setting.deviation == pytest.approx(math.sqrt(0.03))


def test_one_seed_has_no_deviation_and_what_did_not_finish_is_no_part_of_a_mean():
    (setting,) = settings_of(
        report(
            trial("a", 0.5, 0, 0.6),
            trial("b", 0.5, 1, 0.1, "stopped"),
            trial("c", 0.5, 2, 0.9, "failed"),
            trial("d", 0.5, 3, math.nan),
        )
    )
    assert (setting.mean, setting.deviation, setting.status) == (0.6, None, "finished")


@pytest.mark.parametrize(("direction", "order"), [("max", [0.7, 0.5]), ("min", [0.5, 0.7])])
def test_the_best_mean_comes_first_then_stopped_then_failed(direction: Any, order: list[float]):
    found = settings_of(
        report(
            trial("a", 0.8, 0, None, "failed"),
            trial("b", 0.6, 0, 0.99, "stopped"),
            trial("c", 0.5, 0, 0.2),
            trial("d", 0.7, 0, 0.4),
            direction=direction,
        )
    )
    assert [setting.params[KEY.name] for setting in found] == [*order, 0.6, 0.8]


def test_the_best_setting_is_that_of_the_best_trial_whatever_its_seed():
    content = report(trial("a", 0.5, 0, 0.2), trial("b", 0.5, 1, 0.3), trial("c", 0.6, 0, 0.9), best="b")
    assert {setting.params[KEY.name]: is_best(content, setting) for setting in settings_of(content)} == {
        0.5: True,
        0.6: False,
    }


def test_equal_numbers_are_one_setting_and_a_switch_is_no_number():
    assert value_key(0) == value_key(0.0)
    assert value_key(1) != value_key(True)
    assert value_key({"a": 1, "b": 2}) == value_key({"b": 2, "a": 1})
    assert len(settings_of(report(trial("a", 1, 0, 0.2), trial("b", 1.0, 1, 0.3)))) == 1


def test_stages_are_counted_by_the_trials_that_ran_them():
    (setting,) = settings_of(
        report(
            trial("a", 0.5, 0, 0.6, stages={"select": "ran", "train": "ran"}, seconds=2.0),
            trial("b", 0.5, 1, 0.6, stages={"embed": "reused", "select": "reused", "train": "ran"}, seconds=3.0),
        )
    )
    assert setting.ran == {"select": 1, "train": 2, "embed": 0}
    assert setting.seconds == 5.0


def test_values_that_only_trials_have_are_listed_too_and_numbers_by_size():
    assert values_of(report(trial("a", 0.55, 0, 0.6), trial("b", 0.5, 0, 0.6)), KEY) == [0.5, 0.55, 0.6, 0.7, 0.8]
    texts = SweepKey(KEY.name, "choice", ["DU", "ADS"])
    assert values_of(report(trial("a", "DS", 0, 0.6)), texts) == ["DU", "ADS", "DS"]


def test_a_key_is_numeric_and_logarithmic_as_its_values_are():
    assert SweepKey("a", "loguniform", low=1e-5, high=1e-4).is_logarithmic
    assert not SweepKey("a", "uniform", low=1e-5, high=1.0).is_logarithmic
    assert SweepKey("a", "grid", [1e-5, 1e-4, 1e-3]).is_logarithmic
    assert not SweepKey("a", "grid", [0.0, 0.1, 1.0]).is_logarithmic
    assert not SweepKey("a", "choice", [True, False]).is_numeric
    assert not SweepKey("a", "choice", [None, 0.5]).is_numeric
    assert SweepKey("a", "choice", [0, 0.5]).is_numeric


def test_content_that_does_not_fit_together_is_refused_by_name():
    with pytest.raises(ValueError, match=r"key a\.b: a grid has values"):
        SweepKey("a.b", "grid")
    with pytest.raises(ValueError, match=r"key a\.b: uniform has a range"):
        SweepKey("a.b", "uniform", low=1.0)
    with pytest.raises(ValueError, match="trial x: params of"):
        report(SweepTrial("x", {"other": 1}, 0, "finished"))
    with pytest.raises(ValueError, match="best: no trial 'y'"):
        report(trial("x", 0.5, 0, 0.6), best="y")


def test_a_key_is_called_by_its_shortest_end_that_no_other_shares():
    assert short_names(["a.x", "b.x", "b.y", "c.d.yy"]) == {"a.x": "a.x", "b.x": "b.x", "b.y": "y", "c.d.yy": "yy"}
    assert short_names(["x", "a.x"]) == {"x": "x", "a.x": "a.x"}


def test_values_are_written_as_in_a_recipe_on_one_line():
    assert value_text(True) == "true"
    assert value_text(None) == "null"
    assert value_text(0.1 + 0.2) == "0.3"
    assert value_text(1000000) == "1000000"
    assert value_text({"form": "raw", "weights": [1, -0.5]}) == "{form: raw, weights: [1, −0.5]}"
    assert value_text("two\n  lines") == "two lines"


def test_what_was_drawn_has_four_digits_and_what_was_listed_all():
    drawn = SweepKey("a.rate", "uniform", low=0, high=1)
    assert key_value_text(drawn, 0.283471) == "0.2835"
    assert key_value_text(SweepKey("a", "grid", [0.283471]), 0.283471) == "0.283471"
    assert setting_text([drawn, KEY], {"a.rate": 0.5, KEY.name: 0.7}) == "rate = 0.5, similarity_threshold = 0.7"


def test_metrics_are_shares_in_percent_or_plain_numbers():
    assert metric_text(0.8234, True) == "82.3"
    assert metric_text(0.8234, False) == "0.8234"
    assert metric_text(123456.7, False) == "123,457"
    assert metric_text(None, False) == "–"
    assert spread_text(0.8234, 0.0061, True) == "82.3 ± 0.6"
    assert spread_text(1.25, 0.012, False) == "1.25 ± 0.012"
    assert spread_text(0.8234, None, True) == "82.3"


def test_long_names_may_break_after_dots_and_underscores_and_are_escaped():
    assert breakable("a.soft_<b>_") == "a.<wbr/>soft_<wbr/>&lt;b&gt;_"
    assert clipped("x" * 30, 10) == "x" * 9 + "…"
