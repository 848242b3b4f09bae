"""The numbers of `resource_estimate` for one run: from its recipe, its finished stages and this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from raysem import storage
from raysem.config import build
from raysem.curation.ray_stages import Workers, plan_workers
from raysem.ledger import Ledger
from raysem.models.checkpoint import read_config
from raysem.models.clap import ClapSettings
from raysem.models.registry import audio_encoder_settings
from raysem.remote import is_remote
from raysem.runs import model_record
from raysem.runs.cluster import ClusterSettings
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.runs.resource_estimate import Machine, Training, Work
from raysem.runs.roles import clip_shards
from raysem.runs.training_stages import TEACHER
from raysem.stages import Stage, done_record
from raysem.training.settings import TrainingSettings

MIB = 2**20
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
HF_CLAP = {"embedding_width": 512, "crop_samples": 480_000}  # of the published ones


class Facts:
    """What is known of a run when the stages that need no cluster are finished; `chosen` are those it is to run."""

    def __init__(self, recipe: CurateAndTrainRecipe, output: storage.Location, chosen: Sequence[Stage]):
        self._recipe, self._output = recipe, output
        self._stages = {stage.name: stage for stage in chosen}
        self._left = {name for name, stage in self._stages.items() if done_record(stage, output) is None}

    def machine(self) -> Machine:
        """This machine; of a cluster elsewhere, only the disk is known."""
        return machine_of(self._recipe.cluster, self._output)

    def work(self) -> Work:
        """What is left to do."""
        recipe = self._recipe
        embed = recipe.curation.embed
        wild = self._summary("corpora/wild")
        captions = self._summary("captions").get("captions", 0)
        model, activation = self._model()
        workers = self._workers()
        crops = [embed.num_crops]
        if any(name.startswith("evaluate/") for name in self._left):
            crops.append(recipe.evaluation.zero_shot.crops_per_clip)
        return Work(
            clips=wild.get("clips", 0),
            shards=wild.get("shards", 0),
            rows_per_shard=recipe.corpora.rows_per_shard,
            captions=captions,
            embedding_width=model["embedding_width"],
            embeddings_left=self._embeddings_left(),
            crop_samples=model["crop_samples"],
            num_crops=max(crops),
            clips_per_unit=embed.clips_per_unit,
            activation_bytes=0 if workers.num_gpus else activation,
            embedders=workers.count,
            decoders=self._decoders(workers),
            matches="match" in self._left,
            neighbours=recipe.curation.neighbours if "neighbours" in self._left else 0,
            exact_neighbours=captions <= recipe.curation.neighbour_index.exact_up_to,
            screens="screen" in self._left,
            trainings=tuple(self._trainings(model["crop_samples"])),
        )

    def _summary(self, name: str) -> Mapping[str, int]:
        stage = self._stages.get(name)
        record = done_record(stage, self._output) if stage else None
        return record["summary"] if record else {}

    def _model(self) -> tuple[Mapping[str, int], int]:
        """Width and crop of the teacher, and the bytes of its largest layer for a crop (0: not known)."""
        teacher = self._recipe.teacher
        settings = teacher.model if teacher.kind == "train" else ClapSettings()  # those of CLAP-2022
        if teacher.kind == "raysem":
            settings = build(ClapSettings, read_config(teacher.location)["settings"], teacher.location)
        stage = self._stages.get(TEACHER)
        if stage is not None and TEACHER not in self._left:
            about = model_record.about(stage.folder(self._output))
        elif teacher.kind == "hf_clap":
            about = HF_CLAP
        else:
            about = {"embedding_width": settings.embedding_width, "crop_samples": settings.crop_samples}
        if teacher.kind == "hf_clap":
            return about, 0
        channels = audio_encoder_settings(settings.audio_encoder, channels=settings.audio_channels).channels[0]
        frames, mels = settings.log_mel.num_frames(settings.crop_samples), settings.log_mel.num_mels
        return about, 4 * channels * frames * mels

    def _embeddings_left(self) -> int:
        rows = 0
        for name in self._left:
            if name.startswith("embed/") or (name.startswith("evaluate/") and name != "evaluate/scores"):
                stage = self._stages[name]
                source = self._summary(stage.inputs[0].name)
                total = source.get("captions" if stage.inputs[0].name == "captions" else "clips", 0)
                done = sum(record.rows for record in Ledger(stage.folder(self._output)).records().values())
                rows += max(total - done, 0)
        return rows

    def _workers(self) -> Workers:
        gpus = 0
        if not self._recipe.cluster.is_elsewhere:
            import torch

            gpus = torch.cuda.device_count()
        resources = {"CPU": float(self._recipe.cluster.num_local_cpus), "GPU": float(gpus)}
        return plan_workers(self._recipe.cluster.embedding, resources)

    def _decoders(self, workers: Workers) -> int:
        spare = self._recipe.cluster.num_local_cpus - workers.count * workers.num_cpus
        return max(min(int(spare / workers.decode_cpus), workers.max_decode_tasks or 2**31), 1)

    def _trainings(self, crop_samples: int) -> list[Training]:
        """The runs that are left: the clips they read for certain, without those that are yet to be selected."""
        found = []
        students = {f"student/{name}": student for name, student in self._recipe.students().items()}
        named = "variants.{}.student" if self._recipe.variants else "student"
        teacher = self._recipe.teacher
        text_is_frozen = teacher.kind == "train" and not teacher.model.text.trained  # a student's is as its teacher's
        for name in sorted(self._left):
            if name == TEACHER and teacher.kind == "train":
                key, settings = TEACHER, teacher.training
            elif name in students:
                key, settings = named.format(name.removeprefix("student/")), students[name].student.training
            else:
                continue
            parts = [stage for stage in self._stages[name].inputs if stage.name.startswith("corpora/")]
            found.append(self._training(key, settings, parts, crop_samples, text_is_frozen))
        return found

    def _training(
        self, key: str, settings: TrainingSettings, parts: Sequence[Stage], crop_samples: int, text_is_frozen: bool
    ) -> Training:
        limit = settings.table_memory_mib * MIB
        return Training(
            name=key,
            workers=self._recipe.cluster.training_workers,
            clips=sum(self._summary(part.name).get("clips", 0) for part in parts),
            crop_samples=crop_samples,
            cache_bytes=settings.cache_mib * MIB,
            table_bytes=sum(min(limit, bytes_of(part, self._output)) for part in parts),
            text_cache_bytes=settings.text_cache_mib * MIB if text_is_frozen else 0,
        )


def machine_of(cluster: ClusterSettings, output: storage.Location) -> Machine:
    """This machine; of a cluster elsewhere, only the disk is known."""
    free = storage.free_bytes(output)
    if cluster.is_elsewhere:
        return Machine(free_disk_bytes=free)
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    try:
        limit = int(CGROUP_LIMIT.read_text())
        total, available = min(total, limit), min(available, limit)
    except (OSError, ValueError):  # no such file, or "max"
        pass
    store = cluster.object_store_mib * MIB if cluster.object_store_mib else int(0.3 * available)  # Ray's own choice
    return Machine(
        free_disk_bytes=free,
        memory_bytes=total,
        available_bytes=available,
        cpus=cluster.num_local_cpus,
        object_store_bytes=store,
    )


def bytes_of(part: Stage, output: storage.Location) -> int:
    """Of a part's clips; 0 where they lie on an object store."""
    if is_remote(output):
        return 0
    return sum(storage.size_bytes(file) for file in clip_shards(part.folder(output)))
