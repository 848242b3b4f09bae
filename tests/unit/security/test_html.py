"""Pages show texts of strangers. tests/unit/reports fills every field of the reports with markup; here is the rest."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import Environment, nodes

from raysem import storage
from raysem.listening.page import PageClip
from raysem.listening.page import render as render_study
from raysem.reports.content import Headline, OutcomeCount, ReportContent, StageLine
from raysem.reports.page import render as render_report
from raysem.reports.players import Player

SOURCES = Path(storage.__file__).parent
TEMPLATES = sorted(SOURCES.rglob("*.html"))
HOSTILE = [
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "</title><svg onload=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "＜script＞alert(1)＜/script＞",
    "{{ 7*7 }}{% for x in y %}",
    "\u2028alert(1)\u2029",
]


class Shape(HTMLParser):
    """The elements of a page and the names of their attributes, without any text."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attributes)))


def report_of(text: str) -> str:
    content = ReportContent(
        title=text,
        subtitle=text,
        headlines=[Headline(text, text, text)],
        facts=[(text, text)],
        stages=[StageLine(text, 1.0, "ran", text)],
        outcomes=[OutcomeCount(text, 1, [(text, text)])],
        notes=[text],
        recipe_yaml=text,
    )
    return render_report(content)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_report_has_the_same_elements_whatever_its_texts_are(hostile: str):
    page = report_of(hostile)
    assert Shape(page).elements == Shape(report_of("harmless")).elements
    assert ("{{ 7*7 }}" in page) == ("{{ 7*7 }}" in hostile)  # a text is no template


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_listening_page_keeps_tags_as_data(hostile: str):
    player = Player(uri="data:audio/ogg;base64,AAAA", duration_seconds=1.0, peaks=(0.5, 1.0), num_bytes=3)
    clip = PageClip("t", player, True, ("l", (hostile, "dog")), ("r", (hostile,)))
    page = render_study(hostile, [clip])
    found = re.findall(r'<script type="application/json" id="study">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    assert "<" not in found[0]
    assert "\u2028" not in found[0]
    data = json.loads(found[0])
    assert data["clips"][0]["left"]["tags"] == [hostile, "dog"]
    assert page.count("<script") == 2  # the data and the page's own
    assert hostile not in page.replace(found[0], "") or hostile == "javascript:alert(1)"


@pytest.mark.parametrize("hidden", ["\u202e", "\u2066", "\u200f", "\x00", "\x1b", "\x85"])
def test_characters_that_turn_or_hide_what_follows_are_shown_as_such(hidden: str):
    page = render_report(ReportContent(title=f"clip{hidden}gpj.exe", notes=[f"a{hidden}b"]))
    assert hidden not in page
    assert page.count("\ufffd") >= 3
    plain = render_report(ReportContent(title="Ünïcode, tabs\tand\nlines — 音", notes=["犬"]))
    assert "\ufffd" not in plain
    assert "Ünïcode, tabs\tand\nlines — 音" in plain


def test_no_template_turns_escaping_off_except_for_plots():
    assert TEMPLATES
    for file in TEMPLATES:
        tree = Environment().parse(file.read_text())
        for found in tree.find_all(nodes.Filter):
            if found.name == "safe":
                assert isinstance(found.node, nodes.Getattr), file
                assert found.node.attr == "svg", file
        assert not list(tree.find_all(nodes.ScopedEvalContextModifier)), f"{file}: autoescape blocks"


def test_every_environment_of_templates_escapes():
    for file in SOURCES.rglob("*.py"):
        for call in re.findall(r"[^\w]Environment\((.*?)\n?\s*\)\n", file.read_text(), flags=re.DOTALL):
            assert "autoescape=True" in call, file


def test_no_attribute_is_without_quotes():
    # Autoescape protects the inside of quotes only.
    for file in TEMPLATES:
        assert not re.search(r"<[a-z][^<>{}]*\s[\w-]+=\{\{", file.read_text()), file


def test_no_script_makes_html_of_data():
    for file in SOURCES.rglob("*.js"):
        for line in re.findall(
            r"(?:innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\().*(?:\n.*)?", file.read_text()
        ):
            assert "${" not in line, f"{file}: {line}"
            assert re.search(r"innerHTML =\s*['\"`]<svg", line), f"{file}: {line}"
