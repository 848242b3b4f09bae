"""cluster/TROUBLESHOOTING.md: every entry is whole, and what it tells to type, set or look at is there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from ray.scripts.scripts import cli as ray_cli

from raysem import cli as raysem_cli
from raysem import config
from raysem.runs.curate_and_train import JOB
from raysem.runs.launch import load
from raysem.tables import REJECT_OUTCOMES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "cluster" / "TROUBLESHOOTING.md").read_text()
ENTRIES = re.findall(r"^### (\d+)\. (.*)\n((?:(?!^##).*\n)*)", PAGE, re.MULTILINE)
QUOTED = re.findall(r"`([^`]+)`", PAGE.replace("\n  ", " "))
RAYSEM = typer.main.get_command(raysem_cli.app)


def commands(program: str) -> list[list[str]]:
    """What stands between backticks and begins with `program` and a word of a command."""
    return [shlex.split(text.replace("...", "")) for text in QUOTED if re.match(rf"{program} [a-z]", text)]


def check_command(words: list[str], command: Any) -> None:
    """The subcommands are there, and the options belong to the last of them. Typer's groups are none of click's."""
    words = words[1 : words.index("--")] if "--" in words else words[1:]
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"{command.name} has no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known, f"{command.name}: {words}"


def test_there_are_many_entries_in_order_and_each_has_all_its_parts():
    assert [int(number) for number, _, _ in ENTRIES] == list(range(1, len(ENTRIES) + 1))
    assert len(ENTRIES) >= 15
    for number, title, text in ENTRIES:
        parts = re.findall(r"^- \*\*(Evidence|Likely|First)", text, re.MULTILINE)
        assert parts == ["Evidence", "Likely", "First"], f"{number}. {title}"


@pytest.mark.parametrize("words", commands("ray"), ids=" ".join)
def test_commands_of_ray_are_those_of_the_installed_one(words: list[str]):
    check_command(words, ray_cli)
    if words[1] == "exec":
        check_command(shlex.split(words[3]), ray_cli)


@pytest.mark.parametrize("words", commands("raysem"), ids=" ".join)
def test_commands_of_raysem_are_there(words: list[str]):
    check_command(words, RAYSEM)


def test_keys_are_those_of_the_recipe():
    recipe: dict[str, Any] = config.plain(load(JOB, None, []))
    keys = {key for text in QUOTED for key in re.findall(r"\b((?:cluster|curation|audio)\.[a-z_.]+[a-z])", text)}
    assert len(keys) > 8
    for key in keys:
        found: Any = recipe
        for part in key.split("."):
            assert part in found, key
            found = found[part]


def test_panels_metrics_and_outcomes_have_the_names_that_they_are_called_by():
    panels = {
        panel["title"] for panel in json.loads((ROOT / "cluster" / "grafana" / "raysem.json").read_text())["panels"]
    }
    joined = PAGE.replace("\n  ", " ")
    named = set(re.findall(r"panels? \*([^*]+)\*", joined)) | set(
        re.findall(r"\*([A-Z][^*]+)\*", joined.replace("**", ""))
    )
    assert {name for name in named if name != "Status"} <= panels
    for outcome in ("missing", "undecodable", "too_short", "crashed_decoder"):
        assert f"`{outcome}`" in PAGE
        assert outcome in REJECT_OUTCOMES


def test_messages_that_are_quoted_are_those_of_the_code():
    code = "\n".join(file.read_text() for file in (ROOT / "raysem").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    for message in (
        "nobody answers there",
        "is at work on this output",
        "not the output of a run",
        "rounds, {missing[0]} first",
        "more than max_failed_share",
        "the shard is made again",
        "recipe changed since the last run here",
        "a loss is not finite",
        "the gradient is not finite",
        "the disk is full; make space",
        "cannot be reached or used",
    ):
        assert message in code
        assert message in PAGE or message.startswith("rounds")


def test_the_pages_name_each_other():
    assert "(TROUBLESHOOTING.md)" in (ROOT / "cluster" / "README.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "cluster" / target).exists()
