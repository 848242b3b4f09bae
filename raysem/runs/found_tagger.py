"""The tagger that a person means: a checkpoint folder, or one of those that a run has trained."""

from __future__ import annotations

from raysem import storage
from raysem.runs.found_model import choose_name, is_finished, is_one_model, planned_models

NOUN = "tagger"


def find_tagger(given: storage.Location, name: str | None = None) -> storage.Location:
    """The checkpoint folder of the tagger at `given`, a folder of that kind or the output of `train_spa`.

    Of a run it is the tagger of the present recipe that is called `name`; without a name the only one that is finished.

    Raises:
        UserError: there is neither, the run has no finished tagger of that name, or several and no name.
    """
    location = storage.absolute(given)
    if is_one_model(location, NOUN, {"--model": name}):
        return location
    planned = planned_models(location, NOUN)
    finished = [tagger for tagger, folder in planned.items() if is_finished(folder)]
    return storage.join(planned[choose_name(location, NOUN, name, planned, finished)], "model")
