"""What every job script does around its stages: options, recipe, dry run, preflight, Ray, exit status."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import raysem
from raysem import config, logs, storage
from raysem.credentials import without_credentials
from raysem.errors import RaysemError, UserError
from raysem.locks import run_lock
from raysem.runs.cluster import ClusterSettings, check_reachable
from raysem.runs.store import StoreSettings
from raysem.stages import Stage, StageResult, done_record, run_stages, stages_until, write_plan

log = logging.getLogger(__name__)

FOLDER = "jobs/recipes"
RECIPES = Path(raysem.__file__).parent.parent / FOLDER
ERROR_LOG = "error.log"
RAY_DATA_ADVICE = "\nFailed to apply UDF transform after "

RecipeT = TypeVar("RecipeT", bound=config.Settings)


@dataclass(frozen=True)
class Job(Generic[RecipeT]):
    """A job by its parts. `stages` and `preflight` start no work.

    When a stage is next that needs a cluster, `check_resources` looks at what is known by then and may refuse or warn,
    and `connect` starts or joins Ray.
    """

    name: str
    about: str
    recipe_type: type[RecipeT]
    default_recipe: str
    default_output: str
    stages: Callable[[RecipeT, storage.Location], list[Stage]]
    preflight: Callable[[RecipeT, storage.Location, Sequence[Stage]], list[str]]
    check_resources: Callable[[RecipeT, storage.Location, Sequence[Stage]], list[str]]
    connect: Callable[[RecipeT], None]
    finish: Callable[[Mapping[str, StageResult], storage.Location], None]
    at_once: Callable[[RecipeT], int] | None = None
    """How many stages of one group may run side by side on the cluster; None: one."""
    store: Callable[[RecipeT], StoreSettings] | None = None
    """Where the recipe says that s3:// is; None: its jobs go by the environment alone."""


def parser_of(job: Job) -> argparse.ArgumentParser:
    """The options that every job takes."""
    parser = argparse.ArgumentParser(prog=f"jobs/{job.name}.py", description=job.about)
    parser.add_argument("--recipe", metavar="FILE", help=f"recipe in YAML (default: jobs/recipes/{job.default_recipe})")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides", help="change one dotted key"
    )
    parser.add_argument("--output", metavar="DIR", help=f"local or s3:// (default: {job.default_output})")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    parser.add_argument("--fresh", action="store_true", help="run every stage again")
    parser.add_argument(
        "--verify", action="store_true", help="compare finished shards with their digests, make again what is damaged"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the recipe and the stages, run nothing")
    return parser


def main(job: Job, arguments: Sequence[str] | None = None) -> int:
    """Run a job from the command line; status 0 finished, 1 a stage failed, 2 a user's mistake, 130 Ctrl-C."""
    options = parser_of(job).parse_args(arguments)
    return ended(job.name, lambda: _run(job, options), storage.absolute(options.output or job.default_output))


def ended(name: str, run: Callable[[], int], output: storage.Location) -> int:
    """The status of `run`: its own, or after an error 1, 2 or 130 with one line that begins with `name`.

    Args:
        output: where the whole of an unexpected error is written.
    """
    logs.set_up()
    try:
        return run()
    except (KeyboardInterrupt, Exception) as error:  # the last one to see it: whatever it is ends in one line
        if _was_interrupted(error):
            print(f"{name}: interrupted; the same command goes on from what is finished", file=sys.stderr)
            return 130
        found = own_error(error)
        if isinstance(found, UserError):
            print(f"{name}: {_one_line(found)}", file=sys.stderr)
            return 2
        if found is not None:
            print(f"{name}: stopped: {_one_line(found)}", file=sys.stderr)
            return 1
        what = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else 'no message'}"
        where = _write_traceback(output)
        what = without_credentials(what)
        print(f"{name}: stopped by an unexpected error, {what} (the whole of it: {where})", file=sys.stderr)
        return 1


def _was_interrupted(error: BaseException | None) -> bool:
    """By Ctrl-C; pydantic makes an error of its own of one that comes while it works."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def own_error(error: BaseException) -> RaysemError | None:
    """The error of ours within `error`: Ray wraps what its tasks and actors raise, sometimes several times."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        found = left.pop(0)
        if found is None or id(found) in seen:
            continue
        if isinstance(found, RaysemError):
            # Ray makes a class of its own that is both its error and ours; ours alone prints as one line.
            cause = getattr(found, "cause", None)
            return _as_raised(cause if isinstance(cause, RaysemError) else found)
        seen.add(id(found))
        left += [getattr(found, "cause", None), found.__cause__]
    return None


def _as_raised(error: RaysemError) -> RaysemError:
    """`error` without the advice on retries that Ray Data writes into its message."""
    if error.args and isinstance(error.args[0], str):
        error.args = (error.args[0].split(RAY_DATA_ADVICE)[0], *error.args[1:])
    return error


def _one_line(error: RaysemError) -> str:
    """Its message; what Arrow and others say within it may have several lines."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _write_traceback(output: storage.Location) -> str:
    """Write the current exception to `<output>/error.log`; says where it went, or shows it where that fails."""
    location = storage.join(output, ERROR_LOG)
    text = without_credentials(traceback.format_exc())
    try:
        storage.write_text(location, text)
    except OSError:
        print(text, file=sys.stderr)
        return "above"
    return location


def load(job: Job[RecipeT], recipe: str | None, overrides: Sequence[str]) -> RecipeT:
    """The job's recipe from a file, or its default, with overrides.

    Raises:
        UserError: the default is asked for, and this installation has none (recipes lie beside the package, not in it).
    """
    default = RECIPES / job.default_recipe
    if recipe is None and not default.is_file():
        raise UserError(f"no default recipe at {default}; pass --recipe FILE (the repository has some in {FOLDER})")
    return config.load_recipe(job.recipe_type, recipe or default, overrides)


def _run(job: Job, options: argparse.Namespace) -> int:
    recipe = load(job, options.recipe, options.overrides)
    output = storage.absolute(options.output or job.default_output)
    if job.store is not None:
        job.store(recipe).enter()
    stages = job.stages(recipe, output)
    chosen = stages_until(stages, options.until)
    for warning in job.preflight(recipe, output, chosen):
        log.warning("%s", warning)
    if options.dry_run:
        print(_dry_run(recipe, chosen, output, fresh=options.fresh))
        return 0
    began = time.monotonic()
    with run_lock(output):
        for change in write_plan(stages, output, config.plain(recipe)):
            log.info("recipe changed since the last run here: %s", change)
        storage.write_text(storage.join(output, "recipe.yaml"), config.to_yaml(recipe))

        def connect() -> None:
            for warning in job.check_resources(recipe, output, chosen):
                log.warning("%s", warning)
            job.connect(recipe)

        at_once = partial(job.at_once, recipe) if job.at_once is not None else None
        results = run_stages(
            stages, output, until=options.until, fresh=options.fresh, verify=options.verify, connect=connect,
            at_once=at_once,
        )  # fmt: skip
        job.finish(results, output)
    print(_closing(results, output, time.monotonic() - began))
    return 0


def _dry_run(recipe: config.Settings, stages: Sequence[Stage], output: storage.Location, *, fresh: bool) -> str:
    lines = [config.to_yaml(recipe).rstrip(), "", f"# digest {config.digest(recipe)}, output {output}", "# stages:"]
    for stage in stages:
        finished = done_record(stage, output) is not None and not fresh
        lines.append(f"#   {'skip' if finished else 'run '} {stage.name} {stage.digest}")
    return "\n".join(lines)


def _closing(results: dict[str, StageResult], output: storage.Location, seconds: float) -> str:
    skipped = [name for name, result in results.items() if result.skipped]
    ran = [name for name, result in results.items() if not result.skipped]
    lines = [f"{len(ran)} stages run, {len(skipped)} skipped (finished before), {logs.duration(seconds)}"]
    if skipped:
        lines.append(f"skipped: {', '.join(skipped)}")
    headline = next((result.summary.get("headline") for result in reversed(list(results.values()))), None)
    lines += headline or []
    if "report" in results:
        lines.append(f"report: {storage.join(output, 'report', 'index.html')}")
    return "\n".join(lines)


def connect_ray(cluster: ClusterSettings) -> None:
    """Join the cluster at `cluster.address` (or of RAY_ADDRESS), else start a local Ray; one already joined stays.

    Every process that works for this one looks for s3:// where `cluster.storage` says: those of a local Ray inherit the
    environment, to a cluster it goes as the job's runtime environment.

    Raises:
        UserError: there is no cluster at the address, or it wants another token.
    """
    import ray

    from raysem.runs import local_ray

    cluster.storage.enter()
    if ray.is_initialized():
        return
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It calls every error of a worker a bug of Ray's, with pages of traceback; ours are shown or written by `main`.
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)
    settings: dict[str, Any] = {"log_to_driver": True, "logging_level": "warning", "configure_logging": True}
    target = cluster.joined_address
    if target:
        check_reachable(cluster)
        variables = cluster.storage.environment
        if variables:
            settings["runtime_env"] = {"env_vars": variables}
            # Else Ray refuses a variable that `ray job submit` was given, too.
            os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"
        try:
            ray.init(address=target, **settings)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"cluster.address {target}: {' '.join(str(error).split())} "
                "(is it running, and is RAY_AUTH_TOKEN or ~/.ray/auth_token that cluster's token?)"
            ) from error
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    memory = cluster.object_store_mib * 2**20 if cluster.object_store_mib else None
    local_ray.start(num_cpus=cluster.local_cpus, object_store_memory=memory, **settings)
