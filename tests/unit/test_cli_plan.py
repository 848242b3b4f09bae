from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raysem.cli import app
from raysem.errors import UserError

PLAN = ["plan", "--clips", "2e6", "--seconds", "10", "--teacher", "htsat"]


def answer(*options: str) -> str:
    ended = CliRunner().invoke(app, [*PLAN, *options], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_the_plan_says_what_it_does_not_know_and_what_limits_first():
    said = answer("--gpus", "h200:8")
    assert "2,000,000 clips of 10 s (flac), 100,000 captions" in said
    assert "GPUs: 8 h200, CPU cores: 128, nodes: 1" in said
    assert "not known: corpora, embed, " in said
    assert "GPU-hours = clips / R / 3600; R by benchmarks/embedding.py" in said
    assert "limits first: " in said
    assert "AMD EPYC, 2 cores; benchmarks/results.json" in said


def test_given_rates_and_prices_come_before_measured_ones():
    found = json.loads(
        answer(
            *("--gpus", "h200:8", "--rate", "embed=1000,decode=50", "--rate", "train=100"),
            *("--price", "gpu=3.5,cpu=0.05", "--json"),
        )
    )
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert stages["decode"]["rate"]["source"] == "--rate"
    assert stages["embed"]["gpu_hours"] == pytest.approx(2e6 / 1000 / 3600)
    assert stages["embed"]["cost"] == pytest.approx(3.5 * 2e6 / 1000 / 3600)
    assert found["pipeline"]["cpus_per_gpu"] == pytest.approx(20)
    assert stages["neighbours"]["hours"] is None
    assert "neighbours" in found["unknown_hours"]


def test_a_file_of_rates_comes_between_given_and_measured(tmp_path: Path):
    file = tmp_path / "mine.json"
    file.write_text('{"hardware": "mine", "rates": {"embed": 10, "decode": 20}}')
    found = json.loads(answer("--gpus", "a:1", "--rates", str(file), "--rate", "embed=30", "--json"))
    used = {stage["name"]: (stage["rate"] or {}).get("value") for stage in found["stages"]}
    assert (used["embed"], used["decode"]) == (30, 20)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--teacher", "gpt"], "--teacher gpt: no such teacher; there are htsat, cnn14, cnn14_tiny"),
        (["--clips", "-5"], "--clips -5: expected a whole number from 1"),
        (["--clips", "1.5"], "--clips 1.5: expected a whole number from 1"),
        (["--clips", "nan"], "--clips nan: expected a whole number"),
        (["--clips", "many"], "--clips many: expected a whole number"),
        (["--seconds", "0"], "--seconds 0: expected a number above 0"),
        (["--gpus", "8"], "--gpus 8: expected kind:count, such as h200:8"),
        (["--gpus", "h200:0"], "--gpus h200:0: expected kind:count"),
        (["--gpus", "h200:x"], "--gpus h200:x: expected kind:count"),
        (["--cpus", "0"], "--cpus 0: expected at least 1"),
        (["--nodes", "-1"], "--nodes -1: expected at least 1"),
        (["--keep-rate", "2"], "--keep-rate 2: expected a share"),
        (["--memory-gib", "inf"], "--memory-gib inf: expected a number above 0"),
        (["--format", "aac"], "--format aac: not measured; there are flac"),
        (["--rate", "embed"], "--rate embed: embed is a number above 0"),
        (["--rate", "sing=3"], "--rate sing=3: no rate 'sing'; there are corpora"),
        (["--rates", "/nowhere/r.json"], "--rates /nowhere/r.json: no such file"),
        (["--price", "tpu=3"], "--price tpu=3: expected gpu=NUMBER or cpu=NUMBER"),
        (["--price", "gpu=-1"], "--price gpu=-1: expected gpu=NUMBER"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(options: list[str], said: str):
    with pytest.raises(UserError) as raised:
        CliRunner().invoke(app, [*PLAN, *options], catch_exceptions=False)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def shown_plans() -> list[tuple[str, list[str]]]:
    """The commands of docs/SCALING.md, each with the lines of output that are shown below it."""
    blocks: list[tuple[str, list[str]]] = []
    for line in (Path(__file__).parents[2] / "docs" / "SCALING.md").read_text().splitlines():
        if line.startswith("    $ raysem plan"):
            blocks.append((line.removeprefix("    $ raysem "), []))
        elif line.startswith("    ") and line.strip() not in ("", "...") and blocks:
            blocks[-1][1].append(line[4:].rstrip())
    return blocks


@pytest.mark.parametrize(("command", "shown"), shown_plans())
def test_the_numbers_of_the_page_on_scaling_are_those_of_the_command(command: str, shown: list[str]):
    ended = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert len(shown) > 3
    assert [line for line in shown if line not in ended.output.splitlines()] == []


def test_a_plan_loads_neither_torch_nor_ray():
    code = (
        "import sys; from typer.testing import CliRunner; from raysem.cli import app\n"
        f"assert CliRunner().invoke(app, {PLAN!r}).exit_code == 0\n"
        "print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.strip() == "[]", ended.stderr
