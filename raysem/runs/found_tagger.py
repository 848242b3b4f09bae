"""The tagger that a person means: a checkpoint folder, or one of those that a run has trained."""

from __future__ import annotations

import logging

from raysem import storage
from raysem.errors import UserError
from raysem.models.checkpoint_folder import CONFIG_FILE
from raysem.stages import DONE, PLAN

log = logging.getLogger(__name__)

STAGES = "tagger/"


def find_tagger(given: storage.Location, name: str | None = None) -> storage.Location:
    """The checkpoint folder of the tagger at `given`, a folder of that kind or the output of `train_spa`.

    Of a run it is the tagger of the present recipe that is called `name`; without a name the only one that is finished.

    Raises:
        UserError: there is neither, the run has no finished tagger of that name, or several and no name.
    """
    location = storage.absolute(given)
    if storage.exists(storage.join(location, CONFIG_FILE)):
        if name is not None:
            raise UserError(f"--model {name}: {location} is one model; names are those of a run's taggers")
        return location
    planned = _planned_taggers(location)
    finished = {tagger: folder for tagger, folder in planned.items() if storage.exists(storage.join(folder, DONE))}
    if name is not None and name not in planned:
        raise UserError(f"--model {name}: {location} has no such tagger; there are {', '.join(planned)}")
    if name is None and len(finished) > 1:
        raise UserError(f"{location}: has the taggers {', '.join(finished)}; say which one with --model")
    chosen = name or next(iter(finished or planned))
    if chosen not in finished:
        raise UserError(f"{location}: tagger {chosen} is not finished; run the job up to it (--until {STAGES}{chosen})")
    if name is None and len(planned) > 1:
        log.info("%s: of its taggers only %s is finished, which is used", location, chosen)
    return storage.join(finished[chosen], "model")


def _planned_taggers(output: storage.Location) -> dict[str, storage.Location]:
    """name -> folder of the stage, of the run's present recipe."""
    plan = storage.join(output, PLAN)
    try:
        stages = [(stage["name"], stage["digest"]) for stage in storage.read_json(plan)["stages"]]
    except storage.NOTHING_THERE:
        raise UserError(f"{output}: neither a tagger (no {CONFIG_FILE}) nor the output of a run (no {PLAN})") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{plan}: not readable; run the job again to have it written") from None
    found = {
        name.removeprefix(STAGES): storage.join(output, name, digest)
        for name, digest in stages
        if name.startswith(STAGES)
    }
    if not found:
        raise UserError(f"{output}: the output of a run that trains no tagger")
    return found
