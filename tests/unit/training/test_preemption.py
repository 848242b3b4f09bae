from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import TinyNetwork, run_tiny, tiny_settings, write_data
from two_ranks import on_two_ranks

from raysem.errors import ConfigError
from raysem.training import preemption
from raysem.training.context import LocalContext, TrainingError, stop_together
from raysem.training.preemption import PreemptedError, PreemptionWatch


@dataclass(frozen=True)
class LosingContext(LocalContext):
    """A context that is told at the n-th question that its machine goes."""

    at_question: int = 1
    questions: list[int] = field(default_factory=list)

    def loses_machine(self) -> bool:
        self.questions.append(1)
        return len(self.questions) >= self.at_question


@pytest.fixture
def asks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "ASK_SECONDS", 0.0)


def records(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "clips_per_second"} for line in lines]


@pytest.mark.usefixtures("asks_always")
@pytest.mark.parametrize("step", [0, 1, 4, 5])
def test_a_run_told_that_its_machine_goes_saves_its_step_and_goes_on_to_the_same_bits(tmp_path: Path, step: int):
    data, settings = write_data(tmp_path / "data"), tiny_settings(checkpoint_every_steps=4)
    whole, result = run_tiny(tmp_path / "whole", data=data, settings=settings)
    with pytest.raises(PreemptedError, match=f"saved after step {step}, to go on elsewhere"):
        run_tiny(tmp_path / "moved", data=data, settings=settings, context=LosingContext(at_question=step + 1))
    saved = [folder.name for folder in (tmp_path / "moved").glob("checkpoints/step_*")]
    assert sorted(saved)[-1:] == ([f"step_{step:08d}"] if step else [])
    moved, result_moved = run_tiny(tmp_path / "moved", data=data, settings=settings)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, moved.state_dict()[name]), name
    assert records(tmp_path / "moved") == records(tmp_path / "whole")
    assert (result_moved.history, result_moved.clips_loaded) == (result.history, result.clips_loaded)


@pytest.mark.usefixtures("asks_always")
def test_a_run_told_again_where_it_has_just_begun_leaves_its_checkpoint_as_it_is(tmp_path: Path):
    data = write_data(tmp_path / "data")
    for question in (4, 1):
        with pytest.raises(PreemptedError, match="after step 3"):
            run_tiny(tmp_path / "moved", data=data, context=LosingContext(at_question=question))
        (folder,) = (tmp_path / "moved" / "checkpoints").glob("step_*3")
        (folder / "seen").touch()  # writing it again would remove this


def test_a_context_is_asked_now_and_then(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("raysem.training.preemption.time.monotonic", lambda: now)
    watch = PreemptionWatch(LosingContext())
    assert not watch.is_due
    now += preemption.ASK_SECONDS
    assert watch.is_due
    assert watch.announced()
    assert not watch.is_due


def answers(rank: int) -> list[bool]:
    context = LocalContext.current("cpu")
    return [stop_together(None, context, asks=asking) for asking in (False, rank == 0, rank == 1, True)]


def test_one_rank_that_would_ask_makes_all_ask(tmp_path: Path):
    assert on_two_ranks(answers, tmp_path) == [[False, True, True, True]] * 2
    assert stop_together(None, LocalContext(), asks=True)
    with pytest.raises(TrainingError, match="no"):
        stop_together(ConfigError("no"), LocalContext(), asks=True)


def leaves(rank: int, data: str, output: str) -> int:
    preemption.ASK_SECONDS = 0.0 if rank else 3600.0
    context = LosingContext(rank, 2, 2, torch.device("cpu"), at_question=3)
    with pytest.raises(PreemptedError) as caught:
        run_tiny(output, data=Path(data), context=context, model=TinyNetwork())
    return caught.value.step


def test_all_ranks_leave_after_the_same_step_though_only_one_had_the_time_to_ask(tmp_path: Path):
    data = write_data(tmp_path / "data")
    assert on_two_ranks(leaves, tmp_path / "ranks", str(data), str(tmp_path / "out")) == [2, 2]


def test_a_notice_crosses_processes_as_itself():
    found = pickle.loads(pickle.dumps(PreemptedError(7)))
    assert (found.step, str(found)) == (7, str(PreemptedError(7)))
