"""The classifier that a person means: a checkpoint folder, or a fold of those that a run has trained."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection

from raysem import storage
from raysem.errors import UserError
from raysem.runs.found_model import choose_name, is_finished, is_one_model, planned_models

log = logging.getLogger(__name__)

NOUN = "classifier"
STAGE = re.compile(r"(?P<name>.+)/fold(?P<fold>\d+)")
"""A stage of `train_semanticac`, after its noun."""


def find_classifier(given: storage.Location, name: str | None = None, fold: int | None = None) -> storage.Location:
    """The checkpoint folder of the classifier at `given`, a folder of that kind or the output of `train_semanticac`.

    Of a run it is the classifier of the present recipe that is called `name`, without a name the only one with a
    finished fold; and of that the one that was tested on `fold`, without a fold the first that is finished.

    Raises:
        UserError: there is neither, the run has no finished classifier of that name and fold, or several names.
    """
    location = storage.absolute(given)
    if is_one_model(location, NOUN, {"--model": name, "--fold": fold}):
        return location
    planned = _folds_of(location)
    finished = {
        variant: done
        for variant, folders in planned.items()
        if (done := [number for number in sorted(folders) if is_finished(folders[number])])
    }
    chosen = choose_name(location, NOUN, name, planned, finished)
    number = _choose_fold(f"{location}: {NOUN} {chosen}", f"{NOUN}/{chosen}", fold, planned[chosen], finished[chosen])
    return storage.join(planned[chosen][number], "model")


def _folds_of(output: storage.Location) -> dict[str, dict[int, storage.Location]]:
    """name -> tested fold -> folder of the stage."""
    found: dict[str, dict[int, storage.Location]] = {}
    for stage, folder in planned_models(output, NOUN).items():
        parts = STAGE.fullmatch(stage)
        if parts is None:
            raise UserError(f"{output}: the stage {NOUN}/{stage} is of no fold; run the job again with this raysem")
        found.setdefault(parts["name"], {})[int(parts["fold"])] = folder
    return found


def _choose_fold(what: str, stage: str, fold: int | None, planned: Collection[int], finished: list[int]) -> int:
    if fold is None:
        fold = finished[0]
        if len(planned) > 1:
            listed = ", ".join(map(str, finished))
            log.info("%s: the model tested on fold %d is taken (finished: %s; --fold chooses)", what, fold, listed)
    elif fold not in planned:
        raise UserError(f"--fold {fold}: {what} has no such fold; there are {', '.join(map(str, sorted(planned)))}")
    elif fold not in finished:
        raise UserError(f"{what}: fold {fold} is not finished; run the job up to it (--until {stage}/fold{fold})")
    return fold
