"""`tuning/sweep.py`: a sweep from its command line to its report."""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from raysem import config, storage
from raysem.errors import StageError, UserError
from raysem.locks import run_lock
from raysem.reports.sweep_content import SweepReport
from raysem.reports.sweep_page import write_sweep_report
from raysem.reports.sweep_settings import settings_of
from raysem.runs.cluster_training import trainings_at_once
from raysem.runs.launch import ended
from raysem.stages import Stage, in_order, run_stages, write_plan
from raysem.sweeps import results
from raysem.sweeps.measured import job_of
from raysem.sweeps.plan import SweepPlan, common_stages
from raysem.sweeps.ray_trials import count_trials, run_trials
from raysem.sweeps.selections import scored_selection
from raysem.sweeps.space import load_space
from raysem.sweeps.trial import Trial, TrialRecord, TrialRecords
from raysem.sweeps.trial_run import how_made

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
DEFAULT_SPACE = "tuning/spaces/quickstart.yaml"
SWEEP, BEST = "sweep.json", "best.yaml"
SHOWN = 10
UNSWEPT = {"space": ("max_failed_trials",), "recipe": ("cluster", "report")}
"""What may change while a sweep goes on."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="tuning/sweep.py", description="Try many settings of a recipe; what they have in common is done once."
    )
    parser.add_argument("--space", metavar="FILE", help=f"space in YAML (default: {DEFAULT_SPACE})")
    parser.add_argument("--recipe", metavar="FILE", help="recipe in YAML (default: the one that the space names)")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides", help="change one dotted key"
    )
    parser.add_argument("--output", metavar="DIR", help="local or s3:// (default: runs/sweep_<name of the space>)")
    parser.add_argument("--fresh", action="store_true", help="forget the trials and stages that are there")
    parser.add_argument("--dry-run", action="store_true", help="print the trials and their stages, run nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Status 0 finished, 1 no result or too many failures, 2 a user's mistake, 130 Ctrl-C."""
    options = parser().parse_args(arguments)
    where = options.space or str(ROOT / DEFAULT_SPACE)
    output = storage.absolute(options.output or str(Path("runs") / f"sweep_{storage.name_of(where)}"))
    return ended("sweep", lambda: _run(options, where, output), output)


def _run(options: argparse.Namespace, where: str, output: storage.Location) -> int:
    space = load_space(where)
    job = job_of(space.job).job
    recipe_path = options.recipe or (str(Path(where).parent / space.recipe) if space.recipe else None)
    # The keys of --set go in after those of the space, so not here.
    recipe = config.load_recipe(job.recipe_type, recipe_path or ROOT / "jobs" / "recipes" / job.default_recipe)
    plan = SweepPlan.of(space, config.plain(recipe), output, options.overrides)
    plan.base_recipe.cluster.storage.enter()  # type: ignore[attr-defined] # before a store is asked
    if recipe.variants:
        log.info("the recipe's variants (%s) are left out: a trial trains one model", ", ".join(recipe.variants))
    sweep = _Sweep(plan, plan.check(where), Path(where).read_text())
    for warning in sweep.preflight():
        log.warning("%s", warning)
    if options.dry_run:
        print(sweep.dry_run())
        return 0
    with run_lock(output):
        sweep.begin(fresh=options.fresh)
        sweep.run_trials()
        content = sweep.conclude()
    print(_closing(content, output))
    return 0


class _Sweep:
    """A checked sweep on its output."""

    def __init__(self, plan: SweepPlan, trials: Sequence[Trial], space_yaml: str):
        """
        Args:
            trials: all of them; for tpe some, by which it is known what trials share.
        """
        self._plan, self._trials, self._space_yaml = plan, trials, space_yaml
        self._records = TrialRecords(plan.output)
        self._needed = {trial.id: self._stages_of(trial) for trial in trials}
        models = {stage.name for trial in trials for stage in plan.trained(trial)}
        self._common = [stage for stage in common_stages(list(self._needed.values())) if stage.name not in models]

    def _stages_of(self, trial: Trial) -> list[Stage]:
        if self._plan.only_selects:
            return in_order(scored_selection(self._plan.trained(trial)[0]).inputs)
        return self._plan.needed(trial)

    @functools.cached_property
    def _recipe(self) -> Any:
        return self._plan.recipe(self._trials[0])

    @functools.cache  # noqa: B019 # one sweep a process
    def _connect(self) -> None:
        job = self._plan.job.job
        for warning in job.check_resources(self._recipe, self._plan.run, self._needed[self._trials[0].id]):
            log.warning("%s", warning)
        job.connect(self._recipe)

    def preflight(self) -> list[str]:
        """The job's own checks of every trial; returns each warning once."""
        check = self._plan.job.job.preflight
        found = [
            line
            for trial in self._trials
            for line in check(self._plan.recipe(trial), self._plan.run, self._needed[trial.id])
        ]
        return list(dict.fromkeys(found))

    def dry_run(self) -> str:
        """The trials, and what they share."""
        common = {stage.name for stage in self._common}
        lines = [f"# {len(self._trials)} trials, output {self._plan.output}", "# once, before the trials:"]
        lines += [f"#   {stage.name} {stage.digest}" for stage in self._common]
        for trial in self._trials:
            own = [stage.name for stage in self._needed[trial.id] if stage.name not in common]
            lines.append(f"{trial.id}  {trial}  [{', '.join(own)}]")
        return "\n".join(lines)

    def begin(self, *, fresh: bool) -> None:
        """Note what is swept, or find that it is the same as before.

        Raises:
            UserError: the output holds another sweep.
        """
        plan, location = self._plan, storage.join(self._plan.output, SWEEP)
        if fresh:
            for part in (self._records.folder, plan.run, location):
                storage.delete(part)
        content = {
            "space": _without(config.plain(plan.space), UNSWEPT["space"]),
            "recipe": _without(config.plain(plan.base_recipe), UNSWEPT["recipe"]),
        }
        try:
            noted = storage.read_json(location)
        except FileNotFoundError:
            noted = content
        types = {"space": type(plan.space), "recipe": type(plan.base_recipe)}
        before = {part: _without(config.completed(types[part], noted.get(part, {})), UNSWEPT[part]) for part in content}
        changes = config.differences(before, content)
        if changes:
            raise UserError(
                f"{plan.output}: holds another sweep ({'; '.join(changes)}); take another --output, or --fresh"
            )
        storage.write_json(location, content)

    def run_trials(self) -> None:
        """The common stages, then every trial without a final record."""
        plan = self._plan
        run_stages(self._common, plan.run, connect=self._connect)
        known = self._records.all()
        kept = sum(record.is_final for record in known.values())
        if kept:
            log.info("%d trials were finished before and are kept", kept)
        if plan.space.search.kind == "tpe":
            ended = kept >= (plan.space.search.trials or 0) * len(plan.space.seeds)
        else:
            ended = all(_is_final(known.get(trial.id)) for trial in self._trials)
        if ended:
            return
        if plan.only_selects:
            self._count()
            return
        self._connect()
        cluster = self._recipe.cluster
        at_once = trainings_at_once(cluster)
        log.info(
            "max_concurrent_trials %d: %d worker%s a training, %s", at_once, cluster.training_workers,
            "s" if cluster.training_workers > 1 else "",
            "room for so many on this cluster" if cluster.is_elsewhere else "on a Ray of this machine",
        )  # fmt: skip
        trainings = [plan.job.training(plan.recipe(trial)) for trial in self._trials]
        run_trials(
            plan,
            at_once,
            steps=max(training.steps for training in trainings),
            first_step=min(min(training.evaluate_every_steps, training.steps) for training in trainings),
        )

    def _count(self) -> None:
        how: dict[str, Mapping[str, str]] = {}
        pending = [trial for trial in self._trials if not _is_final(self._records.read(trial.id))]
        for trial in pending:
            made = run_stages(self._needed[trial.id], self._plan.run, connect=self._connect)
            how[trial.id] = how_made(made)
        self._connect()
        for record in count_trials(self._plan, pending, how):
            self._records.write(record)

    def conclude(self) -> SweepReport:
        """The tables, best.yaml, the best trial on its test sets, and the page.

        Raises:
            StageError: no trial has finished.
        """
        plan = self._plan
        records = self._records.all().values()
        content = results.content_of(plan, records, space_yaml=self._space_yaml)
        by_id = {record.id: record for record in records}
        seeds = {trial.id: plan.recipe(by_id[trial.id].trial).seed for trial in content.trials}  # type: ignore[attr-defined]
        storage.write_text(storage.join(plan.output, "trials.csv"), results.trials_csv(content, seeds))
        storage.write_text(storage.join(plan.output, "settings.csv"), results.settings_csv(content))
        if content.best is None:
            reasons = [trial.reason for trial in content.trials if trial.reason]
            raise StageError(f"none of {len(content.trials)} trials has finished; {reasons[0] if reasons else ''}")
        best = by_id[content.best].trial
        about = (
            f"# The best trial of the sweep {plan.space.title!r}, {best}: jobs/{plan.job.job.name}.py --recipe {BEST}\n"
        )
        storage.write_text(storage.join(plan.output, BEST), about + content.best_yaml)
        if not plan.only_selects:
            content = replace(content, tests=self._test(best))
        content = replace(content, stages=results.stage_lines(self._common, plan.run), facts=self._facts(content))
        write_sweep_report(content, storage.join(plan.output, "report", "index.html"))
        return content

    def _test(self, best: Trial) -> list[Any]:
        """Run what is left of the best trial's job: its test sets and its own report."""
        job, recipe, stages = self._plan.job.job, self._plan.recipe(best), self._plan.stages(best)
        write_plan(stages, self._plan.run, config.plain(recipe))
        storage.write_text(storage.join(self._plan.run, "recipe.yaml"), config.to_yaml(recipe))
        at_once = partial(job.at_once, recipe) if job.at_once is not None else None
        made = run_stages(stages, self._plan.run, connect=self._connect, at_once=at_once)
        job.finish(made, self._plan.run)
        return results.test_scores(storage.read_json(storage.join(self._plan.run, "summary.json")))

    def _facts(self, content: SweepReport) -> list[tuple[str, str]]:
        ends = [trial.status for trial in content.trials]
        counts = ", ".join(f"{ends.count(end)} {end}" for end in ("finished", "stopped", "failed") if end in ends)
        return [("trials", counts), ("job", self._plan.job.job.name)]


def _without(content: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: part for name, part in content.items() if name not in names}


def _is_final(record: TrialRecord | None) -> bool:
    return record is not None and record.is_final


def _closing(content: SweepReport, output: storage.Location) -> str:
    """The best settings, the test scores and where all of it is."""
    lines = []
    for setting in settings_of(content)[:SHOWN]:
        spread = f" +- {setting.deviation:.4g}" if setting.deviation is not None else ""
        value = f"{setting.mean:.4g}{spread}" if setting.mean is not None else setting.status
        params = ", ".join(f"{name}={item}" for name, item in setting.params.items())
        lines.append(f"{content.metric} {value}  {params}")
    for score in content.tests:
        interval = f" [{score.interval[0]:.3f}, {score.interval[1]:.3f}]" if score.interval else ""
        lines.append(f"{score.test_set} {score.metric}, {score.model}: {score.value:.3f}{interval}")
    failed = [trial for trial in content.trials if trial.status == "failed"]
    lines += [f"failed: {trial.id} ({trial.reason})" for trial in failed]
    lines += [f"best: {storage.join(output, BEST)}", f"report: {storage.join(output, 'report', 'index.html')}"]
    return "\n".join(lines)
