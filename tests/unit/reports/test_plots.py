from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from raysem.reports import plots
from raysem.reports.content import ImprovementSetStatistics, SimilarityStatistics


def similarities(**changes):
    given = {
        "bin_edges": np.linspace(0.4, 1, 7),
        "bin_counts": [5000, 900, 80, 12, 3, 0],
        "thresholds": {"DU": 0.6, "DU+SL": 0.6, "ADS": 0.61},
        "sweep_thresholds": [0.4, 0.5, 0.6, 0.7],
        "kept_pairs": [5995, 995, 95, 15],
        "kept_clips": [100, 80, 30, 9],
        "num_pairs": 200_000,
        "num_clips": 100,
        "precision": [0.3, 0.5, 0.8, None],
        "floor": 0.4,
    }
    return SimilarityStatistics(**given | changes)


def improvement_set(name="DU", clips_per_caption=None):
    return ImprovementSetStatistics(
        name, "cosine >= 0.6", 0.6, 30, 95, {1: 20, 2: 6, 9: 4}, clips_per_caption or {1: 40, 5: 3, 40: 1}, 2.0, 7.5
    )


def draw_all():
    train = [{"step": s, "kind": "train", "contrastive_loss": 1 / s, "learning_rate": 1e-4} for s in range(1, 40)]
    held_out = [{"step": s, "kind": "held_out", "held_out_loss": 2 / s, "pairs": 88.0} for s in (10, 20, 30)]
    main, _ = plots.curves({"teacher": train + held_out, "a <b> & $x$": train})
    return [
        plots.similarity_histogram(similarities()),
        plots.kept_against_threshold(similarities()),
        plots.precision_against_threshold(similarities()),
        plots.captions_per_clip(improvement_set()),
        plots.clips_per_caption(improvement_set()),
        plots.hub_share([improvement_set(), improvement_set("ADS")]),
        plots.confusion(["rain", "sea<i>waves"], [[3, 1], [0, 0]], title="teacher"),
        *main,
    ]


@pytest.fixture(scope="module")
def every_plot():
    return draw_all()


def test_every_plot_is_well_formed_has_an_alternative_text_and_fetches_nothing(every_plot):
    assert len(every_plot) == 10
    for plot in every_plot:
        ElementTree.fromstring(plot.svg)
        assert len(plot.alt) > 20
        assert "http" not in plot.svg
        assert "$\\mathdefault" not in plot.svg


def test_colours_are_the_pages_own_so_that_dark_mode_reaches_them(every_plot):
    for plot in every_plot:
        literal = set(re.findall(r"#[0-9a-f]{6}", plot.svg))
        assert literal <= {"#000000", "#ffffff"}, plot.title
        assert "url(#" not in plot.svg or len(re.findall(r'id="p[0-9a-f]{8}-', plot.svg)) >= 1


def test_identifiers_are_unique_over_all_plots_of_a_page(every_plot):
    found = [identifier for plot in every_plot for identifier in re.findall(r'\sid="([^"]+)"', plot.svg)]
    assert len(found) == len(set(found))
    for plot in every_plot:
        for used in re.findall(r'(?:url\(#|href="#)([^)"]+)', plot.svg):
            assert f'id="{used}"' in plot.svg


def test_the_same_numbers_give_the_same_bytes(every_plot):
    assert [plot.svg for plot in draw_all()] == [plot.svg for plot in every_plot]


def test_thresholds_are_marked_and_named():
    plot = plots.similarity_histogram(similarities())
    assert plot.svg.count("var(--mark)") >= 4  # two lines and their numbers
    assert "0.6 (DU, DU+SL), 0.61 (ADS)" in plot.caption


def test_precision_is_drawn_only_where_labels_are_known():
    assert plots.precision_against_threshold(similarities(precision=None)) is None
    assert plots.precision_against_threshold(similarities(precision=[None] * 4)) is None


def test_empty_statistics_draw_an_empty_plot_and_no_error():
    nothing = similarities(bin_counts=[0] * 6, kept_pairs=[0] * 4, kept_clips=[0] * 4, thresholds={}, num_pairs=0)
    assert "no threshold is in use" in plots.similarity_histogram(nothing).alt
    plots.kept_against_threshold(nothing)
    empty = ImprovementSetStatistics("DU", "cosine >= 0.9", 0.9, 0, 0, {}, {})
    assert "0 clips" in plots.captions_per_clip(empty).caption
    assert plots.hub_share([empty]) is None


def test_the_share_of_hubs_is_told_in_numbers():
    plot = plots.hub_share([improvement_set(clips_per_caption={1: 9, 91: 1})])
    assert "the most frequent tenth of the captions own 91 % of the pairs" in plot.caption


def test_curves_are_ordered_losses_held_out_learning_rate_and_constants_are_left_out():
    rows = [
        {"step": s, "kind": "train", "soft_label_loss": 1.0 / s, "logit_scale": 14.0 + s, "learning_rate": 1e-4 * s,
         "seconds": 0.1 * s, "clips_unusable": 0.0}
        for s in (1, 2, 3)
    ] + [{"step": 3, "kind": "held_out", "held_out_loss": 2.0, "recall_at_1": 0.5}, {"step": 2, "kind": "held_out",
          "held_out_loss": 2.0, "recall_at_1": 0.4}]  # fmt: skip
    main, rest = plots.curves({"teacher": rows})
    assert [plot.title for plot in main] == [
        "Soft label loss",
        "Held out loss",
        "Held out recall at 1",
        "Learning rate",
    ]
    assert [plot.title for plot in rest] == ["Logit scale"]
    assert "teacher from 1 to 0.3333" in main[0].alt


def test_a_loss_that_is_not_finite_leaves_a_gap_and_no_error():
    main, _ = plots.curves({"m": [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}]})
    assert "m from 1 to 1" in main[0].alt


def test_a_confusion_cell_tells_its_classes_and_numbers():
    plot = plots.confusion(["rain", "sea_waves"], [[3, 1], [0, 0]], title="teacher")
    assert "<title>rain → sea waves: 1 of 4</title>" in plot.svg
    assert "75.0 % on the diagonal" in plot.alt
    with pytest.raises(ValueError, match="must be square"):
        plots.confusion(["rain"], [[1, 2]], title="teacher")


def test_a_histogram_with_the_wrong_number_of_edges_is_refused():
    with pytest.raises(ValueError, match="a histogram of 6 bins has 7 edges, got 6"):
        plots.similarity_histogram(similarities(bin_edges=np.linspace(0, 1, 6)))


def test_an_interval_bar_stays_within_its_cell():
    bar = plots.interval_bar(2.0, (-5.0, 9.0), (0.0, 1.0), zero=True)
    positions = [float(value) for value in re.findall(r'x[12]="([\d.]+)"', bar)]
    assert min(positions) == 4
    assert max(positions) == 96


def test_statistics_are_read_back_from_json_and_ds_thresholds_are_not_drawn():
    kept = {
        "name": "DS", "strategy": "DS", "rule": "text cosine", "threshold": 0.7, "num_clips": 3, "num_pairs": 4,
        "num_captions": 2, "captions_per_clip": {"1": 2, "2": 1}, "clips_per_caption": {"2": 2},
        "captions_per_clip_skewness": None, "clips_per_caption_skewness": 0.0, "precision": None, "pairs_judged": 0,
        "frequent_captions": [["rain", 2]],
    }  # fmt: skip
    content = {
        "floor": 0.5, "num_clips": 3, "num_captions": 4, "bin_edges": [0.5, 0.75, 1], "bin_counts": [3, 1],
        "sweep_thresholds": [0.5, 0.75], "kept_pairs": [4, 1], "kept_clips": [3, 1], "precision": None,
        "improvement_sets": {"DS": kept, "DU": kept | {"name": "DU", "strategy": "DU", "threshold": 0.6}},
    }  # fmt: skip
    read = SimilarityStatistics.from_json(content)
    assert (read.thresholds, read.num_pairs) == ({"DU": 0.6}, 12)
    one = ImprovementSetStatistics.from_json(kept)
    assert (one.captions_per_clip, one.frequent_captions) == ({1: 2, 2: 1}, [("rain", 2)])
