"""The stages that read corpora, one for each part of a run, and the one that joins the pool of captions.

They run on the driver, so that what is wrong in a table is said before Ray starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raysem import storage
from raysem.config import plain
from raysem.corpora.synthetic import build_synthetic
from raysem.errors import ConfigError
from raysem.runs import caption_pool, roles
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.runs.part_settings import PartSettings
from raysem.stages import Stage


def corpus_stages(recipe: CurateAndTrainRecipe, output: storage.Location) -> dict[str, Stage]:
    """By part (`teacher`, `held_out`, `wild`, `captions`, `evaluation/<set>`); and `synthetic`, where it is used."""
    corpora = recipe.corpora
    parts = {
        "teacher": roles.part_of(corpora.teacher, recipe.teacher.subset_fraction),
        "held_out": corpora.held_out,
        "wild": corpora.wild,
        "captions": corpora.captions,
    }
    return part_stages(parts, corpora, output, seed=recipe.seed, hidden=("wild",))


def part_stages(
    parts: Mapping[str, Sequence[roles.CorpusSource]],
    corpora: PartSettings,
    output: storage.Location,
    *,
    seed: int,
    hidden: Sequence[str] = (),
) -> dict[str, Stage]:
    """A stage for each of a job's own parts that has sources, and for each evaluation set.

    Args:
        hidden: parts whose labels and captions are put aside.

    Raises:
        ConfigError: a source is synthetic, and the recipe says nothing of the synthetic corpus.
    """
    stages = dict[str, Stage]()
    parts = dict(parts) | {f"evaluation/{name}": (source,) for name, source in corpora.evaluation.items()}
    synthetic, digests = None, dict[str, str]()
    if any(source.is_made for sources in parts.values() for source in sources):
        if corpora.synthetic is None:
            raise ConfigError("corpora.synthetic: is missing, and a source has corpus: synthetic")
        settings = corpora.synthetic
        synthetic = Stage(
            "corpora/synthetic",
            lambda folder: build_synthetic(settings, folder),
            settings=plain(settings),
            needs_cluster=False,
        )
        stages["synthetic"] = synthetic
    for name, sources in parts.items():
        if sources:
            made = synthetic if any(source.is_made for source in sources) else None
            stages[name] = _part(
                name, sources, made, output, digests, seed=seed, rows_per_shard=corpora.rows_per_shard,
                hide_labels=name in hidden,
            )  # fmt: skip
    return stages


def caption_pool_stage(recipe: CurateAndTrainRecipe, output: storage.Location, corpora: Mapping[str, Stage]) -> Stage:
    """Every distinct caption of the teacher's and of the captions' corpora.

    Raises:
        ConfigError: there is neither.
    """
    names = ["teacher"] if recipe.corpora.use_teacher_captions else []
    inputs = [corpora[name] for name in [*names, "captions"] if name in corpora]
    if not inputs:
        raise ConfigError("corpora: no captions to match: give corpora.captions, or corpora.teacher with captions")
    return Stage(
        "captions",
        lambda folder: caption_pool.build(folder, [stage.folder(output) for stage in inputs]),
        inputs=inputs,
        needs_cluster=False,
    )


def _part(
    name: str,
    sources: Sequence[roles.CorpusSource],
    made: Stage | None,
    output: storage.Location,
    digests: dict[str, str],
    *,
    seed: int,
    rows_per_shard: int,
    hide_labels: bool,
) -> Stage:
    def run(folder: storage.Location) -> dict[str, Any]:
        where = made.folder(output) if made else ""
        return roles.build_part(
            folder,
            [source.read_from(where) for source in sources],
            seed=seed,
            rows_per_shard=rows_per_shard,
            hide_labels=hide_labels,
        )

    settings = {
        "sources": [roles.identity(source, digests) for source in sources],
        "seed": seed,
        "rows_per_shard": rows_per_shard,
    }
    return Stage(f"corpora/{name}", run, settings, inputs=[made] if made else [], needs_cluster=False)
