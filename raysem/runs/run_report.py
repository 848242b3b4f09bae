"""The end of a run: `summary.json` with every final number, and the report page made from it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from raysem import config, storage
from raysem.ledger import Ledger
from raysem.logs import duration
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
from raysem.reports.page import write_report
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.runs.played_clips import LISTENING_RATE, waveforms_of
from raysem.runs.published import curves, facts_of
from raysem.stages import Stage, done_record
from raysem.tables import KEPT

log = logging.getLogger(__name__)

EXAMPLES = 3
CURATION = ("floor", "num_clips", "num_captions", "hubness", "improvement_sets")


def write(
    recipe: CurateAndTrainRecipe, output: storage.Location, stages: Sequence[Stage], folder: storage.Location
) -> dict[str, Any]:
    """Write `summary.json` and `index.html` below `folder` from the finished `stages`; returns the headline."""
    by_name = {stage.name: stage for stage in stages}
    folders = {name: stage.folder(output) for name, stage in by_name.items()}
    records = {name: done_record(stage, output) or {} for name, stage in by_name.items()}
    statistics = storage.read_json(storage.join(folders["select/statistics"], "statistics.json"))
    scores: dict[str, Any] = {"evaluation": {}, "differences": []}
    if "evaluate/scores" in folders:
        scores = storage.read_json(storage.join(folders["evaluate/scores"], "scores.json"))
    models = {
        name.removeprefix("student/"): record["summary"]
        for name, record in records.items()
        if name == "teacher" or name.startswith("student/")
    }
    summary = {
        **facts_of(recipe, recipe.seed, records),
        "counts": _counts(folders, records),
        "models": {name: _model(model) for name, model in models.items()},
        "curation": {key: statistics[key] for key in CURATION} | {"pairs": sum(statistics["bin_counts"])},
        **scores,
    }
    storage.write_json(storage.join(folder, "summary.json"), summary)
    content = ReportContent(
        title=recipe.report.title,
        subtitle=_subtitle(summary),
        headlines=_headlines(summary),
        facts=_facts(summary, recipe),
        stages=[StageLine(name, stage["seconds"], _stage_outcome(stage)) for name, stage in summary["stages"].items()],
        outcomes=_outcomes(folders, summary["counts"]),
        evaluation=scores["evaluation"],
        differences=scores["differences"],
        baselines=[name for name in ("teacher", "control") if name in models],
        similarities=SimilarityStatistics.from_json(statistics),
        improvement_sets=[
            ImprovementSetStatistics.from_json(entry) for entry in statistics["improvement_sets"].values()
        ],
        curves=curves({name: folders[_stage_of(name)] for name in models}),
        listening=_listening(recipe, folders),
        listening_threshold=_listening_content(folders)["threshold"],
        notes=_notes(recipe),
        recipe_yaml=config.to_yaml(recipe),
    )
    write_report(content, storage.join(folder, "index.html"))
    return {"headline": records.get("evaluate/scores", {}).get("summary", {}).get("headline", [])}


def _stage_of(model: str) -> str:
    return model if model == "teacher" else f"student/{model}"


def _counts(folders: Mapping[str, str], records: Mapping[str, Any]) -> dict[str, Any]:
    """Where every clip of the pool went. The outcomes of each line add up to `clips`."""
    read = records["corpora/wild"]["summary"]
    embedded = records["embed/wild"]["summary"]["outcomes"]
    outcomes = Counter(embedded)
    for row in storage.read_table(storage.join(folders["corpora/wild"], "rejects.parquet"))["outcome"].to_pylist():
        outcomes[row] += 1
    counts: dict[str, Any] = {
        "wild": {"clips": read["clips"] + read["rejected"], "outcomes": dict(sorted(outcomes.items()))}
    }
    if "screen" in records:
        counts["screen"] = {
            "clips": outcomes[KEPT],
            "outcomes": dict(sorted(records["screen"]["summary"]["outcomes"].items())),
        }
    for name, record in records.items():
        if name.startswith("evaluate/") and name.endswith("/teacher"):
            rows = record["summary"]
            counts[name.removesuffix("/teacher").removeprefix("evaluate/")] = {
                "clips": rows["rows"],
                "outcomes": rows["outcomes"],
            }
    matched = records["match"]["summary"]
    counts["match"] = {"clips": matched["rows"], "outcomes": matched["outcomes"], "pairs": matched["pairs"]}
    return counts


def _model(summary: Mapping[str, Any]) -> dict[str, Any]:
    known = ("source", "fingerprint", "sample_rate", "crop_samples", "embedding_width")
    training = dict(summary.get("training") or {})
    training.pop("history", None)
    return {key: summary[key] for key in known} | {"training": training}


def _stage_outcome(stage: Mapping[str, Any]) -> Any:
    return "resumed" if stage["attempts"] > 1 else "ran"


def _subtitle(summary: Mapping[str, Any]) -> str:
    curation = summary["curation"]
    return (
        f"{curation['num_clips']:,} usable clips, {curation['num_captions']:,} captions, "
        f"{curation['pairs']:,} pairs above {curation['floor']:g}"
    )


def _headlines(summary: Mapping[str, Any]) -> list[Headline]:
    lines = []
    evaluation = summary["evaluation"]
    for set_name, result in evaluation.get("teacher", {}).get("zero_shot", {}).items():
        low, high = result["interval"]
        lines.append(Headline(f"{result['accuracy']:.1%}", f"teacher, {set_name}", f"{low:.1%} to {high:.1%}"))
        students = {
            name: parts["zero_shot"][set_name]
            for name, parts in evaluation.items()
            if name not in ("teacher", "control") and set_name in parts["zero_shot"]
        }
        # With one student there is nothing to pick; the best of several on a test set would flatter itself.
        if len(students) == 1:
            name, found = next(iter(students.items()))
            low, high = found["interval"]
            lines.append(Headline(f"{found['accuracy']:.1%}", f"{name}, {set_name}", f"{low:.1%} to {high:.1%}"))
    for entry in list(summary["curation"]["improvement_sets"].values())[:2]:
        precision = "" if entry["precision"] is None else f", precision {entry['precision']:.0%}"
        detail = f"{entry['num_clips']:,} clips{precision}"
        lines.append(Headline(f"{entry['num_pairs']:,}", f"pairs kept, {entry['name']}", detail))
    return lines


def _facts(summary: Mapping[str, Any], recipe: CurateAndTrainRecipe) -> list[tuple[str, str]]:
    facts = [
        ("recipe", summary["recipe_digest"]),
        ("seed", str(summary["seed"])),
        ("raysem", summary["raysem"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())),
        ("teacher", f"{recipe.teacher.kind}, weights {summary['models']['teacher']['fingerprint'][:16]}"),
        ("hubness", _hubness(summary["curation"]["hubness"])),
        ("time in stages", duration(sum(stage["seconds"] for stage in summary["stages"].values()))),
    ]
    for name, model in summary["models"].items():
        if name != "teacher":
            facts.append((f"student {name}", f"weights {model['fingerprint'][:16]}"))
    return facts


def _hubness(content: Mapping[str, Any]) -> str:
    captions = content["captions"]
    line = (
        f"skewness {captions['skewness']:.2f} of how often a caption is among a clip's {content['k']} nearest; "
        f"{captions['share_in_no_list']:.0%} of the captions never are"
    )
    for hub in captions["hubs"][:1]:
        line += f', "{hub["name"]}" is for {hub["share_of_lists"]:.0%} of the clips'
    return line


def _outcomes(folders: Mapping[str, str], counts: Mapping[str, Any]) -> list[OutcomeCount]:
    rejects = [
        storage.join(folders["corpora/wild"], "rejects.parquet"),
        *Ledger(folders["embed/wild"]).files("rejects"),
    ]
    examples: dict[str, list[tuple[str, str]]] = {}
    for file in rejects:
        for row in storage.read_table(file).to_pylist():
            shown = examples.setdefault(row["outcome"], [])
            if len(shown) < EXAMPLES:
                shown.append((row["clip_id"], row["reason"]))
    outcomes = dict(counts["wild"]["outcomes"])
    if "screen" in counts:
        outcomes |= counts["screen"]["outcomes"]  # its `kept` takes the place of the one before
        examples |= {name: _screened(folders["screen"], name) for name in counts["screen"]["outcomes"] if name != KEPT}
    listed = sorted(outcomes.items(), key=lambda item: (item[0] != KEPT, -item[1]))
    return [OutcomeCount(name, count, examples.get(name, [])) for name, count in listed]


def _screened(folder: str, outcome: str) -> list[tuple[str, str]]:
    table = storage.read_table(storage.join(folder, "rejects.parquet"))
    rows = table.filter(pc.equal(table["outcome"], outcome)).slice(0, EXAMPLES).to_pylist()
    return [(row["clip_id"], row["reason"]) for row in rows]


def _listening_content(folders: Mapping[str, str]) -> dict[str, Any]:
    return storage.read_json(storage.join(folders["select/statistics"], "listening.json"))


def _listening(recipe: CurateAndTrainRecipe, folders: Mapping[str, str]) -> list[ClassListening]:
    """The chosen pairs with their sound; only the clips that are played are read."""
    chosen = _listening_content(folders)["classes"]
    kinds = ("best", "borderline", "rejected")
    wanted = {item["clip_id"] for entry in chosen for kind in kinds for item in entry[kind]}
    waveforms = waveforms_of(wanted, folders["corpora/wild"], recipe.audio)

    def items(entries: Sequence[Mapping[str, Any]]) -> list[ListenItem]:
        return [
            ListenItem(
                clip_id=entry["clip_id"],
                caption=entry["caption"],
                similarity=entry["similarity"],
                waveform_T=waveforms[entry["clip_id"]],
                sample_rate=LISTENING_RATE,
            )
            for entry in entries
            if entry["clip_id"] in waveforms
        ]

    return [ClassListening(entry["label"], *(items(entry[kind]) for kind in kinds)) for entry in chosen]


def _notes(recipe: CurateAndTrainRecipe) -> list[str]:
    notes = [
        "Checkpoints are chosen on held-out pairs; the evaluation sets are scored once, by the final models.",
        "Intervals are bootstrap intervals over the clips of the evaluation set; they say nothing of other seeds.",
    ]
    if recipe.variants and "control" in recipe.variants:
        notes.append("control: the teacher trained on, on its own pairs, for as many steps as a student.")
    if recipe.corpora.synthetic is not None:
        notes.append("The sounds of this run are synthetic: its numbers show that the machinery works, nothing more.")
    return notes
