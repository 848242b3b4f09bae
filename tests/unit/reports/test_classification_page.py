from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import HOSTILE, Page

from raysem.evaluation.classification import (
    ClassificationSettings,
    classification_differences,
    classification_result,
)
from raysem.evaluation.confused_clips import confused_clips
from raysem.evaluation.scored_folds import ScoredFold
from raysem.reports.cells import percent, points
from raysem.reports.classification_content import ClassificationReport, HeardMistake, HeardPair
from raysem.reports.classification_page import render_classification_report, write_classification_report
from raysem.reports.content import OutcomeCount, StageLine
from raysem.reports.players import PlayerSettings
from raysem.reports.plots import curves, curves_of_folds

LABELS = ["Dog", f"Cat {HOSTILE}", "sea_waves", "Siren"]
SETTINGS = ClassificationSettings(num_resamples=50)
HOSTILE_MODEL = f"cscm {HOSTILE}"


def scored(seed: int, quality: float, folds: tuple[int, ...], num_clips: int = 24) -> dict[int, ScoredFold]:
    generator = np.random.default_rng(seed)
    found = {}
    for number in folds:
        target_A = np.arange(num_clips) % 4
        scores_AK = np.exp(generator.normal(size=(num_clips, 4)) + quality * np.eye(4)[target_A])
        scores_AK /= scores_AK.sum(axis=1, keepdims=True)
        clip_ids = [f"{number}-{row} {HOSTILE}" for row in range(num_clips)]
        found[number] = ScoredFold(clip_ids, target_A, scores_AK, num_unscored=2 if number == 2 else 0)
    return found


def heard(folds: dict[int, ScoredFold]) -> list[HeardPair]:
    waveform_T = np.sin(np.arange(4000) * 0.2).astype(np.float32)
    return [
        HeardPair(pair.confusion, [HeardMistake(clip, waveform_T, 8000, HOSTILE) for clip in pair.clips])
        for pair in confused_clips(folds, LABELS, num_pairs=3, clips_per_pair=2)
    ]


def evaluated(models: dict[str, dict[int, ScoredFold]]) -> dict[str, Any]:
    return {
        model: {"classification": classification_result(folds, LABELS, settings=SETTINGS).to_json()}
        for model, folds in models.items()
    }


def report(folds: tuple[int, ...]) -> ClassificationReport:
    models = {
        "linear": scored(0, 0.5, folds),
        "mean": scored(1, 1.0, folds),
        HOSTILE_MODEL: scored(2, 3.0, folds),
    }
    baselines = ["linear", "mean"]
    rows = [{"step": step, "class_loss": 1 / step} for step in (1, 2, 3)]
    return ClassificationReport(
        title=f"Run {HOSTILE}",
        subtitle=HOSTILE,
        corpus=f"ESC {HOSTILE}",
        evaluation=evaluated(models),
        differences=[row.to_json() for row in classification_differences(models, baselines, settings=SETTINGS)],
        baselines=baselines,
        listening={model: heard(models[model]) for model in ("linear", HOSTILE_MODEL)},
        curves={model: {number: rows[number % 2 :] for number in folds} for model in models},
        models={"linear": {"fingerprint": "1f0c9a7b", HOSTILE: HOSTILE}, HOSTILE_MODEL: {"fingerprint": "bb0c9a7b"}},
        outcomes={f"ESC {HOSTILE}": [OutcomeCount("kept", 72), OutcomeCount("undecodable", 2, [(HOSTILE, HOSTILE)])]},
        stages=[StageLine(HOSTILE, 61.2, "resumed", HOSTILE)],
        facts=[("recipe", "abc123"), (HOSTILE, HOSTILE)],
        notes=[HOSTILE],
        recipe_yaml=f"a: {HOSTILE}",
    )


@pytest.fixture(scope="module")
def content() -> ClassificationReport:
    return report((1, 2, 10))


@pytest.fixture(scope="module")
def text(content: ClassificationReport) -> str:
    return render_classification_report(content)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def plain(text: str) -> str:
    """What is read: no tags, one space between words."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", text))).strip()


def section(text: str, name: str) -> str:
    return text.split(f'<section id="{name}"')[1].split("</section>")[0]


def rows_of(table: str) -> list[list[str]]:
    """The cells of a table's body and foot, as they are read."""
    body = table.split("</thead>")[1]
    rows = re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL)
    return [[plain(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL)] for row in rows]


def test_the_page_is_well_formed_and_complete(page: Page):
    assert not page.open
    assert [attributes["id"] for attributes in page.named("section")] == [
        *("results", "folds", "mistakes", "listen", "classes", "training", "clips", "models", "run", "notes")
    ]


def test_nothing_is_fetched_from_anywhere(page: Page, text: str):
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "poster", "srcset", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"<{tag} {name}={value[:80]}>"
    assert not re.search(r"@import|url\((?!#)", page.inside["style"])
    assert not re.search(r"https?://", re.sub(r'src="data:[^"]*"', "", text))


def test_labels_models_and_clips_are_escaped(page: Page, text: str):
    assert len(page.named("script")) == 1
    assert not page.named("img")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for name in ("results", "folds", "mistakes", "listen", "classes", "training", "clips", "models", "run", "notes"):
        assert "&lt;script&gt;alert" in section(text, name), name


def test_every_link_has_its_target_and_identifiers_are_unique(page: Page):
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = [attributes["href"][1:] for attributes in page.named("a")]
    assert set(targets) <= set(identifiers)
    assert len(targets) == 11


def test_pictures_have_alternative_texts_and_tables_have_heads(page: Page):
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert pictures
    assert all(len(attributes["aria-label"]) > 20 for attributes in pictures)
    assert all("scope" in attributes for attributes in page.named("th"))
    regions = [attributes for _, attributes in page.tags if attributes.get("class", "").startswith("scroll")]
    assert all(attributes.get("tabindex") == "0" and attributes.get("aria-label") for attributes in regions)


def test_a_headline_is_the_mean_and_deviation_of_the_folds_with_the_pooled_interval(
    text: str, content: ClassificationReport
):
    head = plain(text.split('<dl class="headlines">')[1].split("</dl>")[0])
    for model, parts in content.evaluation.items():
        result = parts["classification"]
        low, high = (percent(bound) for bound in result["pooled"]["interval"])
        assert (
            f"{model} {percent(result['mean'])} ± {percent(result['sd'])} % mean ± sd of 3 folds; "
            f"pooled {percent(result['pooled']['accuracy'])} % [{low}, {high}]; 72 clips"
        ) in head


def test_the_models_are_tabled_with_their_spreads_and_differences(text: str, content: ClassificationReport):
    rows = rows_of(section(text, "results"))
    assert [row[0].removesuffix(" baseline") for row in rows] == list(content.evaluation)
    differences = {(row["student"], row["baseline"]): row for row in content.differences}
    for row, (model, parts) in zip(rows, content.evaluation.items(), strict=True):
        result = parts["classification"]
        low, high = (percent(bound) for bound in result["pooled"]["interval"])
        assert row[1] == f"{percent(result['mean'])} ± {percent(result['sd'])}"
        assert row[2] == f"{percent(result['pooled']['accuracy'])} [{low}, {high}]"
        for at, baseline in ((4, "linear"), (6, "mean")):
            if (model, baseline) not in differences:
                assert row[at] == "–"
                continue
            found = differences[model, baseline]
            low, high = (points(bound) for bound in found["interval"])
            assert row[at].startswith(f"{points(found['difference'])} [{low}, {high}]")
    assert rows[2][4].endswith("better")
    note = plain(section(text, "results"))
    assert "72 clips of 4 classes in 3 folds (2 more could not be scored)" in note
    assert "95 % bootstrap intervals over the clips of all folds" in note


def test_the_folds_are_tabled_by_number_with_mean_and_deviation_beneath(text: str, content: ClassificationReport):
    *folds, mean, deviation = rows_of(section(text, "folds"))
    assert [row[:3] for row in folds] == [["1", "24", "0"], ["2", "24", "2"], ["10", "24", "0"]]
    for at, parts in enumerate(content.evaluation.values(), start=3):
        result = parts["classification"]
        assert (mean[at], deviation[at]) == (percent(result["mean"]), percent(result["sd"]))
        for row, one in zip(folds, result["by_fold"], strict=True):
            low, high = (percent(bound) for bound in one["interval"])
            assert row[at] == f"{percent(one['accuracy'])} [{low}, {high}]"


def test_classes_are_listed_with_the_accuracy_of_every_model_the_worst_first(text: str, content: ClassificationReport):
    rows = rows_of(section(text, "classes"))
    results = [parts["classification"]["pooled"]["per_class"] for parts in content.evaluation.values()]
    means = {label: np.mean([result[label]["accuracy"] for result in results]) for label in LABELS}
    assert [row[0] for row in rows] == [
        label.replace("_", " ") for label in sorted(LABELS, key=lambda label: means[label])
    ]
    for row in rows:
        label = next(label for label in LABELS if label.replace("_", " ") == row[0])
        assert row[1:] == ["18", *(percent(result[label]["accuracy"]) for result in results)]


def test_a_matrix_of_each_model_tells_its_counts_beside_the_most_confused_pairs(
    text: str, content: ClassificationReport
):
    mistakes = section(text, "mistakes")
    assert mistakes.count('<svg class="confusion"') == 3
    for parts in content.evaluation.values():
        pooled = parts["classification"]["pooled"]
        counts_KK = np.array(pooled["confusion"]["counts"])
        assert f"sea waves → sea waves: {counts_KK[2, 2]} of 18" in mistakes
        for pair in pooled["most_confused"]:
            said = f"{pair['label']} → {pair['predicted']} {pair['num_clips']} clips, {percent(pair['share'], 0)} %"
            assert said.replace("_", " ") in plain(mistakes).replace("_", " ")


def test_a_mistake_is_heard_with_both_classes_and_their_probabilities(
    text: str, page: Page, content: ClassificationReport
):
    listen = section(text, "listen")
    clips = [mistake for pairs in content.listening.values() for pair in pairs for mistake in pair.clips]
    assert len(clips) >= 8
    assert len(page.named("audio")) == len(clips)
    for pairs in content.listening.values():
        for pair in pairs:
            label, predicted = (name.replace("_", " ") for name in (pair.confusion.label, pair.confusion.predicted))
            for mistake in pair.clips:
                assert (
                    f"true {label} {percent(mistake.clip.label_probability)} % "
                    f"called {predicted} {percent(mistake.clip.predicted_probability)} % "
                    f"{mistake.clip.clip_id} fold {mistake.clip.fold}"
                ) in plain(listen)


def test_the_bound_on_audio_leaves_every_pair_something_to_hear(content: ClassificationReport):
    num_pairs = sum(len(pairs) for pairs in content.listening.values())
    bounded = render_classification_report(content, players=PlayerSettings(max_players=num_pairs))
    pairs = section(bounded, "listen").split("<article")[1:]
    assert [pair.count("<audio") for pair in pairs] == [1] * num_pairs
    assert "its bound on audio is reached" in bounded


def test_a_single_fold_has_neither_deviation_nor_table_of_folds():
    single = report((4,))
    text = render_classification_report(single)
    page = Page(text)
    assert not page.open
    assert "folds" not in [attributes["id"] for attributes in page.named("section")]
    read = plain(text.split("</style>")[1])
    assert "±" not in read
    assert " sd " not in read
    result = single.evaluation["linear"]["classification"]
    low, high = (percent(bound) for bound in result["pooled"]["interval"])
    assert f"linear {percent(result['mean'])} % fold 4; [{low}, {high}]; 24 clips" in read
    assert "24 clips of 4 classes, fold 4. " in read
    assert rows_of(section(text, "results"))[0][1] == f"{percent(result['mean'])} [{low}, {high}]"


def test_models_that_were_tested_on_other_folds_say_which():
    models = {"linear": scored(0, 1.0, (1, 2)), "cscm": scored(1, 1.0, (2,), num_clips=20)}
    text = render_classification_report(ClassificationReport("t", evaluation=evaluated(models)))
    results = section(text, "results")
    assert [row[0] for row in rows_of(results)] == [
        "linear folds 1, 2; 48 clips, 2 not scored",
        "cscm fold 2; 20 clips, 2 not scored",
    ]
    assert "clips of 4 classes" not in results
    first, second, mean, deviation = rows_of(section(text, "folds"))
    assert (first[1], second[1]) == ("24", "20–24")
    assert first[-1] == "–"
    assert (mean[-1], deviation[-1]) == (percent(np.mean([float(second[-1].split()[0]) / 100])), "–")


def test_a_class_without_clips_is_a_dash_and_goes_last():
    folds = {1: ScoredFold(["a", "b"], np.array([0, 1]), np.eye(4)[[0, 1]])}
    text = render_classification_report(ClassificationReport("t", evaluation=evaluated({"linear": folds})))
    assert [row[1:] for row in rows_of(section(text, "classes"))] == [["1", "100.0"]] * 2 + [["0", "–"]] * 2
    assert "Most confused" not in text  # nothing is


def test_parts_that_are_left_empty_have_no_section(content: ClassificationReport):
    page = Page(render_classification_report(ClassificationReport("Empty")))
    assert not page.named("section")
    assert not page.open
    brief = dataclasses.replace(content, listening={}, curves={}, outcomes={}, models={}, stages=(), facts=(), notes=())
    page = Page(render_classification_report(brief))
    assert [attributes["id"] for attributes in page.named("section")] == ["results", "folds", "mistakes", "classes"]
    assert len(page.named("a")) == 5
    silent = dataclasses.replace(
        content, listening={"linear": [HeardPair(content.listening["linear"][0].confusion, [])]}
    )
    assert 'id="listen"' not in render_classification_report(silent)


def test_more_than_eight_models_leave_the_headlines_short(content: ClassificationReport):
    many = {f"model {index}": content.evaluation["linear"] for index in range(15)}
    page = Page(render_classification_report(ClassificationReport("t", evaluation=many)))
    assert len(page.named("dt")) == 8
    assert not page.open


def test_a_curve_of_several_folds_is_a_line_for_each_and_one_name_in_the_legend():
    rows = [[{"step": step, "loss": start / step} for step in (1, 2, 4)] for start in (2, 4)]
    (plot,), _ = curves_of_folds({"linear": {1: rows[0], 2: rows[1]}, "cscm": {1: rows[0], 2: rows[1]}})
    assert plot.svg.count(">linear<") == plot.svg.count(">cscm<") == 1
    assert "linear from 3 to 0.75 (mean of 2 folds)" in plot.alt
    assert plot.caption == "A line for each fold."
    assert curves_of_folds({"linear": {4: rows[0]}}) == curves({"linear": rows[0]})


def test_the_report_is_written_whole_to_its_place(tmp_path: Path, content: ClassificationReport):
    brief = dataclasses.replace(content, curves={}, listening={})
    write_classification_report(brief, str(tmp_path / "report" / "index.html"))
    assert (tmp_path / "report" / "index.html").read_text() == render_classification_report(brief)
