"""The smoke recipe of tests/e2e as the base of sweeps; nothing of it is run here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysem import config
from raysem.sweeps.measured import job_of
from raysem.sweeps.plan import SweepPlan
from raysem.sweeps.space import SweepSpace

SMOKE = Path(__file__).parents[2] / "e2e"
RECIPES = {
    "curate_and_train": "smoke.yaml",
    "train_spa": "tagging_smoke.yaml",
    "train_semanticac": "classification_smoke.yaml",
}


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., SweepPlan]:
    """A plan over a smoke recipe; `overrides` as `--set` takes them, `changes` of the space."""

    def make(keys: dict[str, Any], *overrides: str, **changes: Any) -> SweepPlan:
        content = {"keys": keys, "metric": "recall_at_1", **changes}
        space = config.build(SweepSpace, content)
        job = job_of(space.job).job
        recipe = config.load_recipe(job.recipe_type, SMOKE / RECIPES[space.job])
        return SweepPlan.of(space, config.plain(recipe), str(tmp_path / "sweep"), overrides)

    return make
