from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from raysem import config, storage
from raysem.evaluation.zero_shot import ZeroShotProtocol, ZeroShotSettings, zero_shot
from raysem.ledger import Ledger
from raysem.runs import published, run_report
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.stages import Stage, StageResult, run_stages
from raysem.tables import REJECTS

MODEL = {
    "source": {"kind": "raysem", "location": "/x", "text_encoder": "y"},
    "fingerprint": "f" * 64,
    "sample_rate": 8000,
    "crop_samples": 8000,
    "embedding_width": 16,
}


def rejects(*rows: tuple[str, str, str]) -> pa.Table:
    listed = [{"clip_id": a, "stage": "x", "outcome": b, "reason": c} for a, b, c in rows]
    return pa.Table.from_pylist(listed, schema=REJECTS)


def scored(num_right: int) -> dict[str, Any]:
    """Of eight clips of one class of two."""
    protocol = ZeroShotProtocol(
        prompt_template="a {label}",
        label_texts=("a cat", "a dog"),
        sample_rate=8000,
        crop_seconds=1.0,
        crops_per_clip=1,
    )
    audio_AD = np.eye(2)[[1] * num_right + [0] * (8 - num_right)]
    settings = ZeroShotSettings(num_resamples=20)
    found = zero_shot(audio_AD, ["dog"] * 8, np.eye(2), ["cat", "dog"], settings=settings, protocol=protocol)
    return {"zero_shot": {"esc": found.to_json()}, "retrieval": {}}


def hubness() -> dict[str, Any]:
    side = {"skewness": 1.25, "share_in_no_list": 0.2, "hubs": [{"name": "a <dog>", "share_of_lists": 0.5}]}
    return {"k": 2, "captions": side, "clips": side}


class Run:
    """The files of a run's stages, as far as the report reads them."""

    def __init__(self, root: Path, write_part: Callable[..., str], *, screened: bool = False, students: int = 1):
        self.root, self.output = root, str(root / "run")
        self.write_part, self.screened = write_part, screened
        self.names = [f"DU{index}" if index else "DU" for index in range(students)]
        for index in range(3):
            noise = np.random.default_rng(index).normal(size=4000).astype(np.float32) * 0.1
            soundfile.write(root / f"{index}.wav", noise, 8000)
        content = {
            "seed": 4,
            "corpora": {
                "wild": [{"corpus": "clips_table", "root": "/wild"}],
                "evaluation": {"esc": {"corpus": "clips_table", "root": "/esc"}},
            },
            "report": {"title": "A <b>run</b>"},
        }
        self.recipe = config.build(CurateAndTrainRecipe, content)
        works = {
            "corpora/wild": self._wild,
            "teacher": lambda folder: self._model(folder, history=[1]),
            "embed/wild": self._embedded,
            "match": lambda folder: {"rows": 3, "outcomes": {"kept": 2, "below_threshold": 1}, "pairs": 6},
            **({"screen": self._screen} if screened else {}),
            "select/statistics": self._statistics,
            **{f"student/{name}": self._model for name in self.names},
            "evaluate/esc/teacher": lambda folder: {"rows": 20, "outcomes": {"kept": 20}},
            "evaluate/scores": self._scores,
        }
        self.stages = [Stage(name, work) for name, work in works.items()]
        run_stages(self.stages, self.output)

    def _wild(self, folder: str) -> dict[str, Any]:
        clips = [{"clip_id": f"c{i}", "audio": {"bytes": None, "path": str(self.root / f"{i}.wav")}} for i in range(3)]
        clips.append({"clip_id": "c3", "audio": {"bytes": None, "path": "/nowhere.wav"}})
        self.write_part(folder, clips)
        storage.write_table(f"{folder}/rejects.parquet", rejects(("c4", "missing", "no file <x>")))
        return {"clips": 4, "shards": 2, "captions": 0, "rejected": 1}

    def _embedded(self, folder: str) -> dict[str, Any]:
        storage.write_table(Ledger(folder).file_of("shard_00001", "rejects"), rejects(("c3", "missing", "gone")))
        return {"rows": 4, "outcomes": {"kept": 3, "missing": 1}}

    def _screen(self, folder: str) -> dict[str, Any]:
        storage.write_table(f"{folder}/rejects.parquet", rejects(("c2", "duplicate", "cosine 0.99 with c1")))
        return {"outcomes": {"kept": 2, "duplicate": 1}}

    def _model(self, folder: str, history: Any = None) -> dict[str, Any]:
        storage.write_text(f"{folder}/metrics.jsonl", '{"step": 1, "loss": 2.0}\n\n{"step": 2, "loss": 1.0}\n')
        return MODEL | {"training": {"best_step": 2, "history": history}}

    def _statistics(self, folder: str) -> dict[str, Any]:
        kept = {
            "name": "DU_0.5", "strategy": "DU", "rule": "DU: cosine >= 0.5", "threshold": 0.5, "num_clips": 2,
            "num_pairs": 3, "num_captions": 2, "captions_per_clip": {"1": 1, "2": 1},
            "clips_per_caption": {"1": 1, "2": 1},
            "captions_per_clip_skewness": None, "clips_per_caption_skewness": None, "precision": 0.5,
            "pairs_judged": 2, "frequent_captions": [["a <dog>", 2]],
        }  # fmt: skip
        content = {
            "floor": 0.4, "num_clips": 3, "num_captions": 2, "bin_edges": [0.4, 0.7, 1.0], "bin_counts": [4, 2],
            "sweep_thresholds": [0.4, 0.7], "kept_pairs": [6, 2], "kept_clips": [3, 1], "precision": [0.5, 1.0],
            "hubness": hubness(), "improvement_sets": {"select/DU_0.5": kept},
        }  # fmt: skip
        storage.write_json(f"{folder}/statistics.json", content)

        def item(clip: str, similarity: float) -> dict[str, Any]:
            return {"clip_id": clip, "caption": "a <dog>", "similarity": similarity}

        entry = {"label": "dog", "best": [item("c0", 0.9), item("c3", 0.8)], "borderline": [item("c1", 0.5)]}
        listening = {"threshold": 0.5, "classes": [entry | {"rejected": [item("c2", 0.45)]}]}
        storage.write_json(f"{folder}/listening.json", listening)
        return {}

    def _scores(self, folder: str) -> dict[str, Any]:
        evaluation = {"teacher": scored(4), **{name: scored(5) for name in self.names}}
        storage.write_json(f"{folder}/scores.json", {"evaluation": evaluation, "differences": []})
        return {"headline": ["esc zero-shot accuracy, teacher: 50.0%"]}

    def write(self) -> tuple[dict[str, Any], dict[str, Any], str]:
        folder = str(self.root / "report")
        result = run_report.write(self.recipe, self.output, self.stages, folder)
        page = storage.read_bytes(f"{folder}/index.html").decode()
        return result, storage.read_json(f"{folder}/summary.json"), page


@pytest.fixture
def run(tmp_path: Path, write_part: Callable[..., str]) -> Run:
    return Run(tmp_path, write_part)


def test_the_summary_holds_the_final_numbers_and_where_they_come_from(run: Run):
    result, summary, _ = run.write()
    assert result == {"headline": ["esc zero-shot accuracy, teacher: 50.0%"]}
    assert summary["seed"] == 4
    assert summary["recipe"] == config.plain(run.recipe)
    assert summary["recipe_digest"] == config.digest(run.recipe)
    assert summary["evaluation"]["DU"]["zero_shot"]["esc"]["accuracy"] == 0.625
    assert set(summary["models"]) == {"teacher", "DU"}
    assert summary["models"]["teacher"]["training"] == {"best_step": 2}
    assert summary["curation"]["pairs"] == 6
    assert list(summary["stages"]) == [stage.name for stage in run.stages]
    assert {"ray", "torch", "python"} <= summary["versions"].keys()


def test_every_clip_of_the_pool_is_counted_once(run: Run):
    counts = run.write()[1]["counts"]
    assert counts["wild"] == {"clips": 5, "outcomes": {"kept": 3, "missing": 2}}
    assert counts["esc"] == {"clips": 20, "outcomes": {"kept": 20}}
    assert counts["match"] == {"clips": 3, "outcomes": {"kept": 2, "below_threshold": 1}, "pairs": 6}
    for part in ("wild", "esc", "match"):
        assert sum(counts[part]["outcomes"].values()) == counts[part]["clips"]


def test_screened_clips_are_taken_from_those_that_were_kept(tmp_path: Path, write_part: Callable[..., str]):
    run = Run(tmp_path, write_part, screened=True)
    _, summary, page = run.write()
    assert summary["counts"]["screen"] == {"clips": 3, "outcomes": {"kept": 2, "duplicate": 1}}
    folders = {stage.name: stage.folder(run.output) for stage in run.stages}
    outcomes = {entry.outcome: entry for entry in run_report._outcomes(folders, summary["counts"])}
    assert {name: entry.count for name, entry in outcomes.items()} == {"kept": 2, "missing": 2, "duplicate": 1}
    assert sum(entry.count for entry in outcomes.values()) == summary["counts"]["wild"]["clips"]
    assert outcomes["duplicate"].examples == [("c2", "cosine 0.99 with c1")]
    assert outcomes["missing"].examples == [("c4", "no file <x>"), ("c3", "gone")]
    assert "cosine 0.99 with c1" in page


def test_the_page_shows_the_run_and_escapes_what_it_was_given(run: Run):
    page = run.write()[2]
    assert "A &lt;b&gt;run&lt;/b&gt;" in page
    assert "<b>run</b>" not in page
    assert "a <dog>" not in page
    assert "50.0%" in page
    assert "62.5%" in page


def test_a_clip_that_cannot_be_played_is_left_out_and_said_so(run: Run, caplog: pytest.LogCaptureFixture):
    page = run.write()[2]
    assert page.count("<audio") == 3
    assert "c3 cannot be played in the report (missing: " in caplog.text


def test_of_several_students_none_is_put_at_the_top(tmp_path: Path, write_part: Callable[..., str]):
    one = Run(tmp_path, write_part)
    assert [h.label for h in run_report._headlines(one.write()[1])] == ["teacher, esc", "DU, esc", "pairs kept, DU_0.5"]
    (tmp_path / "two").mkdir()
    two = Run(tmp_path / "two", write_part, students=2)
    assert [h.label for h in run_report._headlines(two.write()[1])] == ["teacher, esc", "pairs kept, DU_0.5"]


def test_the_report_is_put_where_a_person_looks(run: Run, tmp_path: Path):
    run.write()
    report = Stage("report", lambda folder: {})
    published.finish({"report": StageResult(report, str(run.root / "report"), {}, 0.0, skipped=False)}, run.output)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seed"] == 4
    assert (tmp_path / "run" / "report" / "index.html").read_text().startswith("<!")


def test_a_run_that_did_not_come_to_its_report_leaves_none(tmp_path: Path):
    published.finish({}, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_package_under_another_name_does_not_stop_the_report(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(published, "PACKAGES", ("torch", "no-such-package-of-ours"))
    assert published.versions().keys() == {"python", "torch"}
