from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from raysem.reports.plot_style import Plot
from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial
from raysem.reports.sweep_curves import curated_against_threshold, learning_curves
from raysem.reports.sweep_plots import metric_against_key

THRESHOLD = SweepKey("curation.similarity_threshold", "grid", [0.5, 0.6, 0.7])
WEIGHT = SweepKey("student.weight", "grid", [0.0, 0.3])
STRATEGY = SweepKey("curation.strategy <b> & $x$", "choice", ["DU <i>", "ADS $y$"])
RATE = SweepKey("training.rate", "loguniform", low=1e-6, high=1e-3)


def trial(name: str, params: dict[str, Any], metric: float | None, **more: Any) -> SweepTrial:
    given: dict[str, Any] = {"seed": 0, "status": "finished"}
    return SweepTrial(name, params, metric=metric, **given | more)


def grid(**changes: Any) -> SweepReport:
    """Every threshold, weight, strategy and two seeds; the strategy changes the curated set, the weight does not."""
    trials = []
    for threshold in THRESHOLD.values:
        for weight in WEIGHT.values:
            for at, strategy in enumerate(STRATEGY.values):
                for seed in range(2):
                    params = {THRESHOLD.name: threshold, WEIGHT.name: weight, STRATEGY.name: strategy}
                    facts = {"pairs": int(1000 * (1 - threshold)) + 50 * at, "mean_similarity": threshold + 0.1}
                    metric = 0.8 - (threshold - 0.6) ** 2 + 0.02 * weight + 0.01 * at + 0.002 * seed
                    trials.append(trial(f"t{len(trials)}", params, metric, seed=seed, facts=facts))
    given: dict[str, Any] = {"metric": "accuracy <b>", "keys": [THRESHOLD, WEIGHT, STRATEGY], "best": "t15"}
    return SweepReport("t", trials=trials, **given | changes)


def random(*, seeds: int = 1) -> SweepReport:
    generator = np.random.default_rng(0)
    trials = []
    for at in range(12):
        rate = float(10 ** generator.uniform(-6, -3))
        for seed in range(seeds):
            stopped = at >= 9
            steps = (10, 20) if stopped else (10, 20, 30, 40, 50)
            curve = [{"step": step, "metric": 0.7 + step / 1000 + at / 500} for step in steps]
            trials.append(
                trial(
                    f"t{at}-{seed}",
                    {RATE.name: rate},
                    0.1 if stopped else 0.8 + 0.002 * at + 0.001 * seed,
                    seed=seed,
                    status="stopped" if stopped else "finished",
                    curve=curve,
                )
            )
    return SweepReport("t", metric="accuracy", keys=[RATE], trials=trials, best="t8-0")


def drawn() -> list[Plot]:
    content = grid()
    plots = [metric_against_key(content, key) for key in content.keys]
    plots += [metric_against_key(random(seeds=seeds), RATE) for seeds in (1, 3)]
    plots += [*curated_against_threshold(content), learning_curves(random())]
    assert all(plots)
    return [plot for plot in plots if plot is not None]


@pytest.fixture(scope="module")
def every_plot() -> list[Plot]:
    return drawn()


def ticks(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_every_plot_is_well_formed_and_takes_the_pages_colours(every_plot: list[Plot]):
    assert len(every_plot) == 8
    for plot in every_plot:
        ElementTree.fromstring(plot.svg)
        assert len(plot.alt) > 20
        assert set(re.findall(r"#[0-9a-f]{6}", plot.svg)) <= {"#000000", "#ffffff"}
        assert "http" not in plot.svg
        assert "mathdefault" not in plot.svg


def test_the_same_numbers_give_the_same_bytes_and_identifiers_are_unique(every_plot: list[Plot]):
    assert [plot.svg for plot in drawn()] == [plot.svg for plot in every_plot]
    found = [identifier for plot in every_plot for identifier in re.findall(r'\sid="([^"]+)"', plot.svg)]
    assert len(found) == len(set(found))


def test_texts_of_values_stand_escaped_beside_their_strips():
    plot = metric_against_key(grid(), STRATEGY)
    assert plot is not None
    assert {"DU &lt;i&gt;", "ADS $y$", "accuracy &lt;b&gt;, %"} <= set(ticks(plot.svg))


def test_the_mean_over_seeds_and_other_keys_is_told_with_its_spread():
    content = grid()
    plot = metric_against_key(content, THRESHOLD)
    assert plot is not None
    at_half = [one.metric for one in content.trials if one.params[THRESHOLD.name] == 0.5]
    assert len(at_half) == 8
    assert f"0.5: {100 * np.mean(at_half):.1f} ± {100 * np.std(at_half, ddof=1):.1f};" in plot.alt
    assert "over seeds and the other keys" in plot.caption
    assert "best setting" in ticks(plot.svg)


def test_a_loguniform_key_has_a_logarithmic_axis():
    plot = metric_against_key(random(), RATE)
    assert plot is not None
    assert {"1e-06", "1e-05", "0.0001", "0.001"} & set(ticks(plot.svg)) >= {"1e-05", "0.0001"}


def test_a_trial_that_was_stopped_does_not_stretch_the_axis_and_is_told():
    plot = metric_against_key(random(), RATE)
    assert plot is not None
    numbers = [float(text) for text in ticks(plot.svg) if re.fullmatch(r"\d\d(\.\d+)?", text)]
    assert numbers
    assert min(numbers) > 78
    assert "Hollow: stopped early" in plot.caption
    assert "Hollow" not in str(metric_against_key(grid(), WEIGHT))


def test_without_any_metric_there_is_no_plot():
    failed = SweepReport("t", keys=[RATE], trials=[trial("a", {RATE.name: 1e-4}, 0.4, status="failed")])
    assert metric_against_key(failed, RATE) is None
    assert learning_curves(failed) is None
    assert curated_against_threshold(failed) == []


def test_a_single_trial_and_equal_metrics_are_drawn():
    one = SweepReport("t", keys=[RATE], trials=[trial("a", {RATE.name: 1e-4}, 0.5)], best="a")
    same = SweepReport("t", keys=[STRATEGY], trials=[trial(v, {STRATEGY.name: v}, 0.0) for v in STRATEGY.values])
    for content, key in ((one, RATE), (same, STRATEGY)):
        plot = metric_against_key(content, key)
        assert plot is not None
        ElementTree.fromstring(plot.svg)


def test_a_threshold_has_a_line_for_each_strategy_but_none_for_what_changes_nothing():
    pairs, similarity = curated_against_threshold(grid())
    assert (pairs.title, similarity.title) == ("Curated pairs", "Mean similarity of the curated pairs")
    assert "strategy <b> & $x$ = DU <i>: 500 at 0.5 to 300 at 0.7" in pairs.alt
    assert "weight" not in pairs.alt
    assert pairs.alt.count(" to ") == 2
    assert "0.6 at 0.5 to 0.8 at 0.7" in similarity.alt


def test_a_set_that_depends_on_the_seed_makes_no_lines_of_other_keys():
    trials = [
        trial(f"{t}{w}{s}", {THRESHOLD.name: t, WEIGHT.name: w}, 0.5, seed=s, facts={"pairs": int(1000 * t) + s})
        for t in THRESHOLD.values
        for w in WEIGHT.values
        for s in range(2)
    ]
    (plot,) = curated_against_threshold(SweepReport("t", keys=[THRESHOLD, WEIGHT], trials=trials))
    assert "similarity_threshold: 500.5 at 0.5 to 700.5 at 0.7." in plot.alt
    assert "weight" not in plot.alt + plot.caption


def test_the_curve_of_a_stopped_trial_ends_where_it_was_stopped():
    plot = learning_curves(random())
    assert plot is not None
    assert "12 trials, 3 were stopped early, most at step 20." in plot.caption
    paths = re.findall(r'<path d="(M [^"]*)"[^>]*style="([^"]*)"', plot.svg)
    ends: dict[str, set[tuple[float, float]]] = {"--muted": set(), "--series-1": set()}
    for path, style in paths:
        xs = [float(x) for x, _ in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
        for colour, found in ends.items():
            if f"stroke: var({colour})" in style and len(xs) in (2, 5):
                found.add((xs[0], xs[-1]))
    ((stopped_from, stopped_to),) = ends["--muted"]
    ((finished_from, finished_to),) = ends["--series-1"]
    assert stopped_from == finished_from
    assert (stopped_to - stopped_from) / (finished_to - finished_from) == pytest.approx(10 / 40, abs=1e-3)


def test_trials_that_reported_once_have_no_curves():
    once = [trial("a", {RATE.name: 1e-4}, 0.5, curve=[{"step": 3, "metric": 0.5}])]
    assert learning_curves(SweepReport("t", keys=[RATE], trials=once)) is None
