"""The stages that embed a part's clips, or the pool's captions, with the model that another stage left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.config import plain
from raysem.curation.ray_stages import EmbedJob, embed_captions, embed_clips
from raysem.ledger import Ledger
from raysem.runs import model_record, roles, teachers
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.stages import Stage
from raysem.tables import KEPT


@dataclass(frozen=True)
class EmbeddingStages:
    """Makes the stages of one recipe on one output."""

    recipe: CurateAndTrainRecipe
    output: storage.Location

    def captions(self, pool: Stage, model: Stage) -> Stage:
        """The embedding of every caption of the pool."""

        def run(folder: storage.Location) -> dict[str, Any]:
            shards = roles.caption_shards(pool.folder(self.output))
            return embed_captions(shards, self._job("embed/captions", model, folder, None))

        return Stage("embed/captions", run, inputs=[pool, model])

    def clips(self, name: str, corpus: Stage, model: Stage, *, num_crops: int | None = None) -> Stage:
        """The embedding of every clip of a part; `num_crops` instead of `curation.embed`'s."""

        def run(folder: storage.Location) -> dict[str, Any]:
            shards = roles.clip_shards(corpus.folder(self.output))
            return embed_clips(shards, self._job(name, model, folder, num_crops))

        embed = plain(self.recipe.curation.embed) | ({"num_crops": num_crops} if num_crops is not None else {})
        covered = {name: value for name, value in embed.items() if name not in ("max_failed_share",)}
        settings = {"embed": covered, "audio": plain(self.recipe.audio)}
        return Stage(name, run, settings=settings, inputs=[corpus, model])

    def _job(self, name: str, model: Stage, folder: storage.Location, num_crops: int | None) -> EmbedJob:
        where = model.folder(self.output)
        about = model_record.about(where)
        embed = self.recipe.curation.embed
        if num_crops is not None:
            embed = embed.model_copy(update={"num_crops": num_crops})
        return EmbedJob(
            model=teachers.source_of(where),
            output=folder,
            workers=self.recipe.cluster.embedding,
            audio=AudioSettings(**{**plain(self.recipe.audio), "sample_rate": about["sample_rate"]}),
            crop_samples=about["crop_samples"],
            embed=embed,
            stage=name,
            metadata={
                "model": about["fingerprint"],
                "sample_rate": str(about["sample_rate"]),
                "crop_samples": str(about["crop_samples"]),
                "num_crops": str(embed.num_crops),
            },
        )


def count_rows(embeddings: storage.Location) -> int:
    """Rows that an embedding stage kept."""
    return sum(record.outcomes.get(KEPT, 0) for record in Ledger(embeddings).records().values())
