"""The model that a person means: a checkpoint folder, or one of those that a run has trained."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from raysem import storage
from raysem.errors import UserError
from raysem.models.checkpoint_folder import CONFIG_FILE
from raysem.remote import NOTHING_THERE
from raysem.stages import DONE, PLAN

log = logging.getLogger(__name__)


def planned_stages(output: storage.Location) -> dict[str, str]:
    """name -> digest of the stages of a run's present recipe.

    Raises:
        UserError: there is no run, or its plan is damaged.
    """
    plan = storage.join(output, PLAN)
    try:
        return {stage["name"]: stage["digest"] for stage in storage.read_json(plan)["stages"]}
    except NOTHING_THERE:
        raise UserError(f"{output}: no {PLAN} there; not the output of a run") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{plan}: not readable; run the job again to have it written") from None


def is_one_model(location: storage.Location, noun: str, options: Mapping[str, object]) -> bool:
    """Whether there is a checkpoint, and not the output of a run.

    Args:
        options: those that choose among the models of a run, with their values.

    Raises:
        UserError: there is a checkpoint, and an option all the same.
    """
    if not storage.exists(storage.join(location, CONFIG_FILE)):
        return False
    for option, value in options.items():
        if value is not None:
            raise UserError(f"{option} {value}: {location} is one model; {option} is for the {noun}s of a run")
    return True


def planned_models(output: storage.Location, noun: str) -> dict[str, storage.Location]:
    """What follows `<noun>/` in a stage's name -> the stage's folder, of a run's present recipe.

    Raises:
        UserError: there is no run, or it trains no model of the kind.
    """
    if not storage.exists(storage.join(output, PLAN)):
        raise UserError(f"{output}: neither a {noun} (no {CONFIG_FILE}) nor the output of a run (no {PLAN})")
    found = {
        name.removeprefix(f"{noun}/"): storage.join(output, name, digest)
        for name, digest in planned_stages(output).items()
        if name.startswith(f"{noun}/")
    }
    if not found:
        raise UserError(f"{output}: the output of a run that trains no {noun}")
    return found


def is_finished(stage: storage.Location) -> bool:
    """Whether a stage has done its work."""
    return storage.exists(storage.join(stage, DONE))


def choose_name(
    output: storage.Location, noun: str, name: str | None, planned: Collection[str], finished: Collection[str]
) -> str:
    """The name of a finished model: the one given, or of a run that has finished but one, that one.

    Raises:
        UserError: no model has the name, it is not finished, or there are several and no name.
    """
    if name is not None and name not in planned:
        raise UserError(f"--model {name}: {output} has no such {noun}; there are {', '.join(planned)}")
    if name is None and len(finished) > 1:
        raise UserError(f"{output}: has the {noun}s {', '.join(finished)}; say which one with --model")
    chosen = name or next(iter(finished or planned))
    if chosen not in finished:
        raise UserError(f"{output}: {noun} {chosen} is not finished; run the job up to it (--until {noun}/{chosen})")
    if name is None and len(planned) > 1:
        log.info("%s: of its %ss only %s is finished, which is used", output, noun, chosen)
    return chosen
