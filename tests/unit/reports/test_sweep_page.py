from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from html_page import HOSTILE, Page

from raysem.reports.content import StageLine
from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial, TestScore
from raysem.reports.sweep_page import render_sweep_report, write_sweep_report

THRESHOLD = SweepKey("curation.similarity_threshold", "grid", [0.5, 0.6, 0.7])
FORM = SweepKey(f"student.{HOSTILE}", "choice", ["raw", HOSTILE])
STAGES = ("embed", "select", f"train {HOSTILE}")


def trials() -> list[SweepTrial]:
    """Every threshold and form with two seeds; one setting is stopped, one fails, one was not run."""
    made = []
    for threshold in THRESHOLD.values:
        for at, form in enumerate(FORM.values):
            if (threshold, at) == (0.5, 1):
                continue
            for seed in range(2):
                status: Any = {(0.7, 0): "stopped", (0.7, 1): "failed"}.get((threshold, at), "finished")
                metric = None if status == "failed" else 0.8 - (threshold - 0.6) ** 2 + 0.02 * at + 0.01 * seed
                first = not made
                made.append(
                    SweepTrial(
                        f"t{len(made)} {HOSTILE}" if at else f"t{len(made)}",
                        {THRESHOLD.name: threshold, FORM.name: form},
                        seed,
                        status,
                        "" if status == "finished" else f"{status} as {HOSTILE}",
                        metric,
                        [{"step": step, "metric": 0.5 + step / 100} for step in (1, 2, 3 if metric else 2)],
                        {
                            STAGES[0]: "ran" if first else "reused",
                            STAGES[1]: "ran" if seed == 0 else "reused",
                            STAGES[2]: "ran",
                        },
                        60.0 + seed,
                        {"pairs": int(10_000 * threshold), "mean_similarity": threshold + 0.1, "precision": None},
                    )
                )
    return made


@pytest.fixture(scope="module")
def content() -> SweepReport:
    return SweepReport(
        title=f"Sweep {HOSTILE}",
        subtitle=HOSTILE,
        metric=f"held-out mAP {HOSTILE}",
        metric_source=HOSTILE,
        keys=[THRESHOLD, FORM],
        trials=trials(),
        best=f"t5 {HOSTILE}",
        tests=[
            TestScore(HOSTILE, f"student {HOSTILE}", HOSTILE, 0.771, (0.741, 0.8), HOSTILE),
            TestScore("ESC-50", "teacher", "loss", 0.65, is_share=False),
        ],
        search=HOSTILE,
        scheduler=HOSTILE,
        stages=[StageLine(HOSTILE, 61.2, "resumed", HOSTILE)],
        facts=[("recipe", "abc123"), (HOSTILE, HOSTILE)],
        notes=[HOSTILE],
        space_yaml=f"a: {HOSTILE}",
        recipe_yaml=f"b: {HOSTILE}",
        best_yaml=f"c: {HOSTILE}",
    )


@pytest.fixture(scope="module")
def text(content: SweepReport) -> str:
    return render_sweep_report(content)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def plain(text: str) -> str:
    """What is read: no tags, one space between words."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))


def section(text: str, name: str) -> str:
    return text.split(f'<section id="{name}"')[1].split("</section>")[0]


def test_the_page_is_well_formed_and_complete(page: Page):
    assert not page.open
    assert [attributes["id"] for attributes in page.named("section")] == [
        *("best", "trials", "keys", "pairs", "curated", "parallel", "learning", "failures", "reuse", "space"),
        *("run", "notes"),
    ]


def test_nothing_is_fetched_from_anywhere(page: Page, text: str):
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "poster", "srcset", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"<{tag} {name}={value[:80]}>"
    assert not re.search(r"@import|url\((?!#)", page.inside["style"])
    assert not re.search(r"https?://", text)


def test_keys_values_reasons_trials_and_files_are_escaped(page: Page, text: str):
    assert len(page.named("script")) == 1
    assert not page.named("img")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for part in ("best", "trials", "keys", "pairs", "parallel", "learning", "failures", "reuse", "space", "run"):
        assert "&lt;script&gt;alert" in section(text, part), part


def test_every_link_has_its_target_and_identifiers_are_unique(page: Page):
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = [attributes["href"][1:] for attributes in page.named("a")]
    assert set(targets) <= set(identifiers)
    assert len(targets) == 13


def test_pictures_have_alternative_texts_and_tables_have_heads(page: Page):
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(pictures) == 5  # two keys, two facts of the curated sets, the curves
    assert all(len(attributes["aria-label"]) > 20 for attributes in pictures)
    assert all("scope" in attributes for attributes in page.named("th"))
    regions = [attributes for _, attributes in page.tags if attributes.get("class", "").startswith("scroll")]
    assert all(attributes.get("tabindex") == "0" and attributes.get("aria-label") for attributes in regions)


def test_the_cards_tell_the_best_setting_the_ends_and_what_was_reused(text: str):
    cards = plain(text.split('<dl class="headlines">')[1].split("</dl>")[0])
    assert "82.5 ± 0.7 %" in cards
    assert "similarity_threshold = 0.6" in cards
    assert "; 2 seeds" in cards
    assert "6 of 10 2 stopped early, 2 failed; 5 settings" in cards
    assert "14 of 30 made once at most: embed" in cards


def test_test_scores_stand_apart_with_their_interval_and_are_said_to_be_scored_once(text: str):
    held_out, tested = section(text, "best").split('<div class="card test-set">')
    assert "82.5 ± 0.7" in held_out
    assert "77.1" not in held_out
    assert "<b>77.1 %</b><small>[74.1, 80.0]</small>" in tested
    assert "82.5" not in tested
    assert "<b>0.65</b></td>" in tested
    assert "scored once" in tested
    assert "No setting was chosen by these numbers. Brackets hold 95 % intervals." in plain(tested)
    assert tested.count('class="interval') == 1  # the teacher's has none


def test_a_setting_is_a_row_with_its_seeds_its_stages_and_its_curated_set(text: str):
    table = section(text, "trials").split("</table>")[0]
    rows = table.split("<tbody>")[1].split("<tr")[1:]
    assert len(rows) == 5
    assert [row.count("best-row") for row in rows] == [1, 0, 0, 0, 0]
    best = plain(rows[0])
    assert "82.5 ± 0.7 2 6,000 0.700" in best
    assert "2 min 01 s" in best
    assert "ran select (1 of 2), train" in best
    assert "reused embed" in best
    assert "stopped" in rows[3]
    assert 'data-value="-Infinity"' in rows[3]
    assert "0 of 2" in plain(rows[4])
    assert "precision" not in table


def test_each_trial_is_listed_where_settings_have_several_seeds(text: str, content: SweepReport):
    _, single = section(text, "trials").split("<details>")
    assert single.count("<tr") - 1 == len(content.trials)
    one_seed = dataclasses.replace(content, trials=[one for one in content.trials if one.seed == 1], best=None)
    listed = section(render_sweep_report(one_seed), "trials")
    assert "<details>" not in listed
    assert "Seeds" not in listed
    assert "t1</small>" in listed


def test_what_was_stopped_and_what_failed_is_told_with_its_step_and_reason(text: str):
    learning, failures = plain(section(text, "learning")), plain(section(text, "failures"))
    assert "Stopped early (2)" in learning
    assert learning.count("stopped as &lt;script&gt;") == 2
    assert "seed 0 3 79.0" in learning
    assert failures.count("failed as &lt;script&gt;") == 2


def test_reuse_is_counted_by_stage(text: str):
    rows = plain(section(text, "reuse")).replace("&gt;", "")
    assert "embed 1 9" in rows
    assert "select 5 5" in rows
    assert rows.rstrip().endswith("10 0")


def test_files_are_shown_as_they_are(text: str):
    for name in ("a", "b", "c"):
        assert f'<pre tabindex="0">{name}: &lt;script&gt;' in text


def test_a_metric_where_less_is_better_is_ranked_and_sorted_so(content: SweepReport):
    flipped = dataclasses.replace(content, direction="min", best="t0", metric="loss", metric_is_share=False)
    text = render_sweep_report(flipped)
    rows = section(text, "trials").split("<tbody>")[1].split("<tr")[1:]
    assert "best-row" in rows[0]
    assert 'data-value="Infinity"' in rows[3]
    assert "The lowest of 5 settings by the mean over seeds" in text
    assert "0.795 ± 0.0071" in plain(rows[0])


def test_a_metrics_own_capitals_are_kept(text: str):
    assert "Held-out mAP" in text


def test_a_report_of_nothing_is_a_page_without_sections():
    page = Page(render_sweep_report(SweepReport("Empty")))
    assert not page.named("section")
    assert not page.open
    keys_alone = Page(render_sweep_report(SweepReport("Keys", keys=[THRESHOLD])))
    assert [attributes["id"] for attributes in keys_alone.named("section")] == ["space"]


def test_a_sweep_of_which_all_failed_is_a_page():
    failed = [dataclasses.replace(one, status="failed", metric=None, curve=()) for one in trials()]
    page = Page(render_sweep_report(SweepReport("Failed", keys=[THRESHOLD, FORM], trials=failed)))
    assert not page.open
    assert [attributes["id"] for attributes in page.named("section")] == [
        *("trials", "curated", "failures", "reuse", "space")
    ]


def test_a_best_trial_that_was_stopped_is_no_error(content: SweepReport):
    stopped = next(one.id for one in content.trials if one.status == "stopped")
    page = Page(render_sweep_report(dataclasses.replace(content, best=stopped)))
    assert not page.open


def test_a_sweep_of_seeds_alone_is_a_page():
    seeds = [SweepTrial(f"t{seed}", {}, seed, "finished", metric=0.5 + seed / 10) for seed in range(3)]
    text = render_sweep_report(SweepReport("Seeds", trials=seeds, best="t2"))
    assert "<b>60.0 ± 10.0 %</b><span>3 seeds</span>" in text
    assert [attributes["id"] for attributes in Page(text).named("section")] == ["best", "trials"]


def test_a_record_of_a_trial_is_a_trial():
    record = {
        **{"id": "t0", "params": {THRESHOLD.name: 0.5}, "seed": 1, "status": "finished", "reason": "", "metric": 0.5},
        **{"curve": [{"step": 1, "metric": 0.5}], "stages": {"select": "ran"}, "seconds": 1.0, "facts": {"pairs": 3}},
    }
    assert dataclasses.asdict(SweepTrial(**record)) == record


def test_the_report_is_written_whole_to_its_place(tmp_path: Path, content: SweepReport):
    brief = dataclasses.replace(content, trials=(), best=None)
    write_sweep_report(brief, str(tmp_path / "report" / "index.html"))
    assert (tmp_path / "report" / "index.html").read_text() == render_sweep_report(brief)
