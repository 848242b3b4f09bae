from __future__ import annotations

import base64
import dataclasses
import hashlib
import re

import numpy as np
import pytest
from html_page import HOSTILE, Page

from raysem.evaluation.differences import paired_differences
from raysem.evaluation.zero_shot import ZeroShotProtocol, ZeroShotSettings, zero_shot
from raysem.reports.cells import points
from raysem.reports.content import (
    ClassListening,
    Headline,
    ImprovementSetStatistics,
    ListenItem,
    OutcomeCount,
    ReportContent,
    SimilarityStatistics,
    StageLine,
)
from raysem.reports.page import render, write_report
from raysem.reports.players import PlayerSettings


def item(similarity, caption="a dog barks", clip_id="clip"):
    waveform = np.sin(np.arange(8000) * 0.2).astype(np.float32)
    return ListenItem(clip_id, caption, similarity, waveform, 16000, HOSTILE)


@pytest.fixture(scope="module")
def content():
    generator = np.random.default_rng(0)
    labels = ["dog", "sea_waves", f"rain {HOSTILE}"]
    protocol = ZeroShotProtocol("a sound of {label}", tuple(labels), 44100, 5.0, 1)
    clip_labels = [labels[i] for i in np.arange(60) % 3]
    audio = np.eye(3)[np.arange(60) % 3]
    results = {
        name: zero_shot(
            audio + noise * generator.normal(size=(60, 3)),
            clip_labels,
            np.eye(3),
            labels,
            settings=ZeroShotSettings(num_resamples=200),
            protocol=protocol,
        )
        for name, noise in (("teacher", 1.5), ("control", 1.2), ("DU+SL", 0.1), (f"ADS {HOSTILE}", 0.6))
    }
    direction = dict.fromkeys(("R@1", "R@5", "R@10", "mAP@10"), 0.25) | {"R@1_interval": [0.2, 0.3]}
    direction |= {"num_queries": 10, "gallery_size": 5}
    retrieval = {"clotho": {"text_to_audio": direction, "audio_to_text": direction}}
    differences = paired_differences(
        {name: result.correct_A for name, result in results.items()}, ["teacher", "control"], set_name="esc50"
    )
    return ReportContent(
        title=f"Run {HOSTILE}",
        subtitle=HOSTILE,
        headlines=[Headline(HOSTILE, HOSTILE, HOSTILE)],
        facts=[("recipe", "abc123"), (HOSTILE, HOSTILE)],
        stages=[StageLine("embed", 61.2, "resumed", HOSTILE), StageLine("match", 0.04, "skipped")],
        outcomes=[OutcomeCount("kept", 70), OutcomeCount("undecodable", 30, [(HOSTILE, HOSTILE)])],
        evaluation={
            name: {"zero_shot": {"esc50": result.to_json()}, "retrieval": retrieval if name == "teacher" else {}}
            for name, result in results.items()
        },
        differences=[difference.to_json() for difference in differences],
        similarities=SimilarityStatistics(
            [0.4, 0.6, 0.8], [90, 10], {HOSTILE: 0.6}, [0.4, 0.6], [100, 10], [50, 9], 1000, 60, [0.5, 0.9], 0.4
        ),
        improvement_sets=[
            ImprovementSetStatistics(
                HOSTILE, HOSTILE, 0.6, 9, 10, {1: 9}, {1: 8, 2: 1}, frequent_captions=[(HOSTILE, 2)]
            )
        ],
        curves={HOSTILE: [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]},
        listening=[
            ClassListening(f"siren {HOSTILE}", [item(0.9, HOSTILE, HOSTILE)], [item(0.61)], [item(0.4)]),
            ClassListening("dog", [item(0.8)] * 4),
        ],
        listening_threshold=0.6,
        notes=[HOSTILE],
        recipe_yaml=f"a: {HOSTILE}",
    )


@pytest.fixture(scope="module")
def text(content):
    return render(content)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_is_well_formed_and_complete(page):
    assert not page.open
    sections = [attributes["id"] for attributes in page.named("section")]
    assert sections == ["results", "retrieval", "listen", "curation", "clips", "classes", "training", "run", "notes"]
    assert len(page.named("html")) == len(page.named("h1")) == 1
    assert page.named("html")[0]["lang"] == "en"


def test_nothing_is_fetched_from_anywhere(page, text):
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "poster", "srcset", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"<{tag} {name}={value[:80]}>"
    assert all("src" not in script for script in page.named("script"))
    assert not [attributes for attributes in page.named("link") if attributes["rel"] != "icon"]
    assert not re.search(r"@import|url\((?!#)", page.inside["style"])
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|https?:", page.inside["script"])
    assert not re.search(r"https?://", re.sub(r'src="data:[^"]*"', "", text))


def test_the_browser_is_told_to_run_and_fetch_nothing_else(page):
    (policy,) = [m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.inside["script"].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_texts_from_captions_labels_names_and_errors_are_escaped(page, text):
    assert len(page.named("script")) == 1
    assert not page.named("img")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert text.count("&lt;script&gt;alert") >= 20


def test_every_link_within_the_page_has_its_target_and_identifiers_are_unique(page):
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = [attributes["href"][1:] for attributes in page.named("a")]
    assert set(targets) <= set(identifiers)
    assert len(targets) == 10


def test_pictures_have_alternative_texts_and_tables_have_heads(page):
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(pictures) >= 6
    assert all(len(attributes["aria-label"]) > 20 for attributes in pictures)
    assert all("scope" in attributes for attributes in page.named("th"))
    regions = [attributes for _, attributes in page.tags if attributes.get("class", "").startswith("scroll")]
    assert regions
    assert all(attributes.get("tabindex") == "0" and attributes.get("aria-label") for attributes in regions)


def test_the_table_of_models_says_who_is_better_and_by_how_much(text, content):
    row = next(r for r in content.differences if (r["student"], r["baseline"]) == ("DU+SL", "teacher"))
    assert row["interval"][0] > 0
    assert f"<b>{points(row['difference'])}</b>" in text
    assert ">better</span>" in text
    assert text.count('<span class="tag">baseline</span>') == 3  # two in zero-shot, the teacher in retrieval


def test_pairs_can_be_heard_and_players_are_bounded(content, page):
    assert len(page.named("audio")) == 7
    assert all(audio["src"].startswith("data:audio/mpeg;base64,") for audio in page.named("audio"))
    listening = ReportContent(title="t", listening=content.listening)
    assert len(Page(render(listening, players=PlayerSettings(max_players=4))).named("audio")) == 4
    small = render(listening, players=PlayerSettings(max_total_mib=0.0001))
    assert "<audio" not in small
    assert small.count("its bound on audio is reached") == 7


def test_players_are_given_out_so_that_every_class_has_some(content):
    text = render(ReportContent(title="t", listening=content.listening), players=PlayerSettings(max_players=4))
    first, second = text.split('<details class="card listening"')[1:]
    assert first.count("<audio") == 3
    assert second.count("<audio") == 1


def test_a_report_of_nothing_is_a_page_without_sections():
    page = Page(render(ReportContent(title="Empty")))
    assert not page.named("section")
    assert not page.open


def test_a_class_without_clips_and_a_missing_confusion_are_no_errors():
    result = {
        "accuracy": 0.5,
        "interval": [0.4, 0.6],
        "num_clips": 2,
        "per_class": {"dog": {"accuracy": None, "num_clips": 0}},
    }
    text = render(ReportContent(title="t", evaluation={"teacher": {"zero_shot": {"esc50": result}}}))
    assert 'data-value="-1"' in text


def test_the_report_is_written_whole_to_its_place(tmp_path, content):
    brief = dataclasses.replace(content, curves={}, similarities=None, improvement_sets=())
    write_report(brief, str(tmp_path / "report" / "index.html"))
    assert (tmp_path / "report" / "index.html").read_text() == render(brief)
