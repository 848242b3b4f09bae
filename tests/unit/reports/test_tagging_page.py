from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from html_page import HOSTILE, Page
from markupsafe import escape

from raysem.evaluation.tag_confusions import moved_confusions
from raysem.evaluation.tagging import TaggingSettings, tagging_differences, tagging_result
from raysem.evaluation.wrong_tags import top_tags
from raysem.reports.cells import percent, points
from raysem.reports.content import OutcomeCount, StageLine
from raysem.reports.players import PlayerSettings
from raysem.reports.plots import spoken_label
from raysem.reports.tagging_content import HeardClip, TaggingReport, TextTable
from raysem.reports.tagging_page import render_tagging_report, write_tagging_report

LINE = np.abs(np.arange(8)[:, None] - np.arange(8)[None])
NAMES = ["Dog", f"Cat {HOSTILE}", "Rain", "Sea_waves", "Siren", "Piano", "Hum", "Silence"]
SETTINGS = TaggingSettings(num_resamples=30)


@pytest.fixture(scope="module")
def content() -> TaggingReport:
    generator = np.random.default_rng(0)
    targets = (generator.random((120, 8)) < 0.25).astype(np.uint8)
    targets[:, 7] = 0
    noise = generator.random(targets.shape)
    scores = {
        "one-hot": noise + 0.25 * targets,
        "OBCE": noise + 0.25 * targets,
        f"SPA {HOSTILE}": noise + 0.5 * targets + 0.2 * (targets @ np.exp(-LINE)),
    }
    spa = f"SPA {HOSTILE}"
    single = np.eye(8)[generator.integers(7, size=40)]
    heard = [
        HeardClip(
            HOSTILE,
            [NAMES[index] for index in np.flatnonzero(targets[clip])],
            {model: top_tags(given[clip], targets[clip], LINE, NAMES, count=3) for model, given in scores.items()},
            np.sin(np.arange(8000) * 0.2).astype(np.float32),
            16000,
            HOSTILE,
        )
        for clip in range(3)
    ]
    return TaggingReport(
        title=f"Run {HOSTILE}",
        subtitle=HOSTILE,
        evaluation={
            model: {
                "tagging": {
                    f"eval {HOSTILE}": tagging_result(
                        given, targets, LINE, NAMES, settings=SETTINGS, num_unscored=7
                    ).to_json(),
                    "esc50": tagging_result(given[:40] + single, single, LINE, NAMES, settings=SETTINGS).to_json(),
                }
            }
            for model, given in scores.items()
        },
        differences=[
            row.to_json()
            for row in tagging_differences(
                scores, targets, LINE, ["one-hot"], set_name=f"eval {HOSTILE}", settings=SETTINGS
            )
        ],
        baselines=["one-hot"],
        confusions=[
            moved_confusions(
                scores["one-hot"], scores[spa], targets, LINE, NAMES, count=3, models=("one-hot", spa), set_name=HOSTILE
            ).to_json()
        ],
        listening=heard,
        curves={HOSTILE: [{"step": step, "bce_loss": 1 / step} for step in (1, 2, 3)]},
        text_tables=[TextTable(HOSTILE, HOSTILE, HOSTILE, 8, -0.4123), TextTable("name", "MiniLM", "ab", 8, None)],
        models={"one-hot": {"weights": "1f0c9a7b", HOSTILE: HOSTILE}, spa: {"weights": "bb0c9a7b"}},
        outcomes={f"train {HOSTILE}": [OutcomeCount("kept", 70), OutcomeCount("undecodable", 3, [(HOSTILE, HOSTILE)])]},
        stages=[StageLine(HOSTILE, 61.2, "resumed", HOSTILE)],
        facts=[("recipe", "abc123"), (HOSTILE, HOSTILE)],
        notes=[HOSTILE],
        recipe_yaml=f"a: {HOSTILE}",
    )


@pytest.fixture(scope="module")
def text(content: TaggingReport) -> str:
    return render_tagging_report(content)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def plain(text: str) -> str:
    """What is read: no tags, one space between words."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))


def test_the_page_is_well_formed_and_complete(page: Page):
    assert not page.open
    assert [attributes["id"] for attributes in page.named("section")] == [
        *("results", "levels", "mistakes", "listen", "classes", "training", "texts", "clips", "models", "run", "notes")
    ]


def test_nothing_is_fetched_from_anywhere(page: Page, text: str):
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "poster", "srcset", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"<{tag} {name}={value[:80]}>"
    assert not re.search(r"@import|url\((?!#)", page.inside["style"])
    assert not re.search(r"https?://", re.sub(r'src="data:[^"]*"', "", text))


def test_names_of_classes_models_clips_and_sets_are_escaped(page: Page, text: str):
    assert len(page.named("script")) == 1
    assert not page.named("img")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert text.count("&lt;script&gt;alert") >= 40


def test_every_link_has_its_target_and_identifiers_are_unique(page: Page):
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = [attributes["href"][1:] for attributes in page.named("a")]
    assert set(targets) <= set(identifiers)
    assert len(targets) == 12


def test_pictures_have_alternative_texts_and_tables_have_heads(page: Page):
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(pictures) == 7  # two sets: levels, differences, distances; one curve
    assert all(len(attributes["aria-label"]) > 20 for attributes in pictures)
    assert all("scope" in attributes for attributes in page.named("th"))
    regions = [attributes for _, attributes in page.tags if attributes.get("class", "").startswith("scroll")]
    assert all(attributes.get("tabindex") == "0" and attributes.get("aria-label") for attributes in regions)


def test_an_omap_stands_beside_its_floor_its_interval_and_the_number_of_clips(text: str, content: TaggingReport):
    result = content.evaluation["one-hot"]["tagging"][f"eval {HOSTILE}"]
    low, high = (percent(bound) for bound in result["OmAP_interval"])
    floor = percent(result["random_floor"]["OmAP"])
    headline = f"[{low}, {high}]; random scores {floor} %; mAP {percent(result['mAP'])} %; 120 clips"
    assert text.count(headline) == 2  # one-hot and OBCE score alike
    assert f"<b>{percent(result['OmAP'])}</b><small>[{low}, {high}]</small>" in text
    assert f'<td class="number">{floor}<small>±' in text
    assert "7 more clips could not be scored" in plain(text)


def test_differences_are_listed_by_model_and_baseline_with_a_verdict(text: str, content: TaggingReport):
    (results,) = re.findall(r'<table class="results against">(.*?)</table>', text, flags=re.DOTALL)
    assert results.count("against one-hot") == 2
    for row in content.differences:
        assert f"<b>{points(row['difference'])}</b>" in results
    assert results.count(">better</span>") == 2  # SPA, in both metrics; OBCE is one-hot itself
    assert results.count(">unclear</span>") == 2


def test_accuracy_is_a_column_only_where_clips_have_one_label(text: str):
    first, second = text.split('class="results tagging"')[1:]
    assert "top-1" not in first.split("</table>")[0]
    assert "top-1" in second.split("</table>")[0]


def test_the_moves_are_told_with_their_classes_and_distances(text: str, content: TaggingReport):
    section = plain(text.split('<section id="mistakes"')[1].split("</section>")[0])
    (entry,) = content.confusions
    assert f"{entry['before']:.2f} → {entry['after']:.2f}" in section
    assert entry["closer"]
    for move in [*entry["closer"], *entry["farther"]]:
        assert f"{move['before']:.2f} → {move['after']:.2f}" in section
        for called in [*move["called_before"], *move["called_after"]]:
            assert f"{escape(spoken_label(called['name']))} {called['distance']}" in section
    assert "Moved closer" in section
    assert "Moved farther" in section


def test_a_clip_is_heard_with_its_labels_and_the_tags_of_every_model(text: str, page: Page, content: TaggingReport):
    assert len(page.named("audio")) == 3
    section = text.split('<section id="listen"')[1].split("</section>")[0]
    assert section.count('<ol class="tags">') == 9
    tags = [tag for item in content.listening for ranked in item.tags.values() for tag in ranked]
    right = sum(tag.distance == 0 for tag in tags)
    assert 0 < right < len(tags) == 27
    assert section.count('<li class="right">') == right
    for tag in tags:
        if tag.distance:
            assert f">{tag.distance} from {escape(spoken_label(tag.nearest or ''))}<" in section
    assert render_tagging_report(content, players=PlayerSettings(max_players=1)).count("<audio") == 1


def test_classes_without_clips_are_named_and_in_no_row(text: str):
    classes = text.split('<section id="classes"')[1].split("</section>")[0]
    assert 'scope="row">Silence' not in classes
    assert "Classes that no clip of this set has (1)" in classes
    assert 'scope="row">Sea waves' in classes


def test_the_text_tables_tell_their_rank_correlation_and_digest(text: str):
    assert "<b>−0.412</b>" in text
    assert "<code>ab</code>" in text


def test_more_than_eight_models_leave_the_headlines_short(content: TaggingReport):
    many = {f"model {index}": content.evaluation["one-hot"] for index in range(15)}
    page = Page(render_tagging_report(TaggingReport("t", evaluation=many)))
    assert len(page.named("dt")) == 8
    assert not page.open


def test_a_report_of_nothing_is_a_page_without_sections():
    page = Page(render_tagging_report(TaggingReport("Empty")))
    assert not page.named("section")
    assert not page.open


def test_a_perfect_model_and_one_class_moved_by_nothing_are_no_errors():
    targets = np.eye(8)[[0, 1, 2]]
    result = tagging_result(targets, targets, LINE, NAMES, settings=SETTINGS).to_json()
    moved = moved_confusions(targets, targets, targets, LINE, NAMES, count=3).to_json()
    text = render_tagging_report(
        TaggingReport("t", evaluation={"m": {"tagging": {"s": result}}}, confusions=[moved], baselines=["m"])
    )
    assert plain(text).count("None.") == 2
    assert not Page(text).open


def test_the_report_is_written_whole_to_its_place(tmp_path: Path, content: TaggingReport):
    brief = dataclasses.replace(content, evaluation={}, curves={}, listening=())
    write_tagging_report(brief, str(tmp_path / "report" / "index.html"))
    assert (tmp_path / "report" / "index.html").read_text() == render_tagging_report(brief)
