"""`curate_and_train`: corpora -> teacher -> embed -> match -> select -> students -> evaluate -> report, as stages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ray

from raysem import config, storage
from raysem.audio.load import AudioSettings
from raysem.config import plain
from raysem.corpora.synthetic import build_synthetic
from raysem.curation.neighbour_shards import NeighbourShards, neighbour_shards, prepare_index
from raysem.curation.pair_shards import MatchShards, SelectShards
from raysem.curation.ray_shards import make_shards, run_as_task
from raysem.curation.ray_stages import EmbedJob, embed_captions, embed_clips
from raysem.curation.selection import SelectionSettings, with_domain_thresholds
from raysem.errors import ConfigError, DataError
from raysem.ledger import Ledger
from raysem.models.teacher import TeacherSource
from raysem.runs import caption_pool, curation_facts, curation_preflight, final_scores, roles, run_report, teachers
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.runs.launch import Job, connect_ray
from raysem.stages import Stage, StageResult, in_order
from raysem.tables import KEPT
from raysem.training.ray_worker import WorkerSettings, run_training
from raysem.training.spec import TrainingSpec

log = logging.getLogger(__name__)

TEACHER = "teacher"


class CurateAndTrain:
    """The stages of one recipe on one output. Building them reads nothing but the corpora's file lists."""

    def __init__(self, recipe: CurateAndTrainRecipe, output: storage.Location):
        self.recipe, self.output = recipe, output
        self.students = recipe.students()

    @cached_property
    def stages(self) -> list[Stage]:
        """Every stage, in the order in which it can run."""
        return [*self._before_report, self.report]

    @cached_property
    def _before_report(self) -> list[Stage]:
        listed = [*self._corpora.values(), self.pool, self.teacher, self.embed_captions, self.domain, self.embed_wild]
        listed += [self.match, self.neighbours, self.screen, *self._selections.values(), self.statistics]
        listed += [*self._students.values(), *self._evaluation_embeddings.values(), self.scores]
        return in_order([stage for stage in listed if stage is not None])

    # -- corpora ------------------------------------------------------------------------------------------------------

    @cached_property
    def _corpora(self) -> dict[str, Stage]:
        corpora, stages = self.recipe.corpora, dict[str, Stage]()
        parts = {
            "teacher": roles.part_of(corpora.teacher, self.recipe.teacher.subset_fraction),
            "held_out": corpora.held_out,
            "wild": corpora.wild,
        }
        parts |= {"captions": corpora.captions}
        parts |= {f"evaluation/{name}": (source,) for name, source in corpora.evaluation.items()}
        used = [source for sources in parts.values() for source in sources if source.corpus == roles.SYNTHETIC]
        synthetic = None
        if used:
            if corpora.synthetic is None:
                raise ConfigError("corpora.synthetic: is missing, and a source has corpus: synthetic")
            settings = corpora.synthetic
            synthetic = Stage(
                "corpora/synthetic", lambda folder: build_synthetic(settings, folder), settings=plain(settings)
            )
            stages["synthetic"] = synthetic
        for name, sources in parts.items():
            if sources:
                stages[name] = self._part(name, sources, synthetic)
        return stages

    def _part(self, name: str, sources: Sequence[roles.CorpusSource], synthetic: Stage | None) -> Stage:
        recipe = self.recipe
        needs = synthetic if any(source.corpus == roles.SYNTHETIC for source in sources) else None

        def run(folder: storage.Location) -> dict[str, Any]:
            return roles.build_part(
                folder,
                sources,
                seed=recipe.seed,
                rows_per_shard=recipe.corpora.rows_per_shard,
                synthetic=needs.folder(self.output) if needs else None,
                hide_labels=name == "wild",
            )

        settings = {
            "sources": [roles.identity(source) for source in sources],
            "seed": recipe.seed,
            "rows_per_shard": recipe.corpora.rows_per_shard,
        }
        return Stage(f"corpora/{name}", run, settings, inputs=[needs] if needs else [])

    @cached_property
    def pool(self) -> Stage:
        """The pool of captions: every distinct one of the teacher's and of the captions' corpora."""
        names = ["teacher"] if self.recipe.corpora.use_teacher_captions else []
        inputs = [self._corpora[name] for name in [*names, "captions"] if name in self._corpora]
        if not inputs:
            raise ConfigError("corpora: no captions to match: give corpora.captions, or corpora.teacher with captions")
        return Stage(
            "captions",
            lambda folder: caption_pool.build(folder, [stage.folder(self.output) for stage in inputs]),
            inputs=inputs,
        )

    # -- teacher ------------------------------------------------------------------------------------------------------

    @cached_property
    def teacher(self) -> Stage:
        """The teacher, trained or loaded; its folder names the weights in `model.json`."""
        recipe = self.recipe
        if recipe.teacher.kind != "train":
            return Stage(
                TEACHER,
                lambda folder: teachers.load(folder, recipe.teacher),
                settings=teachers.identity(recipe.teacher),
            )
        for name in ("teacher", "held_out"):
            if name not in self._corpora:
                raise ConfigError(f"corpora.{name}: is empty, and teacher.kind train needs it")
        inputs = [self._corpora["teacher"], self._corpora["held_out"]]

        def run(folder: storage.Location) -> dict[str, Any]:
            spec = teachers.training_spec(
                recipe, folder, *(roles.clip_shards(stage.folder(self.output)) for stage in inputs)
            )
            return self._train(folder, spec)

        content = plain(recipe.teacher) | {"seed": recipe.seed, "audio": self._audio_content}
        return Stage(TEACHER, run, settings=content, inputs=inputs)

    def _train(self, folder: storage.Location, spec: TrainingSpec) -> dict[str, Any]:
        cluster = self.recipe.cluster
        workers = WorkerSettings(
            num_workers=cluster.training_workers,
            cpus_per_worker=cluster.training_cpus_per_worker,
            use_gpu=cluster.training_on_gpus if cluster.training_on_gpus is not None else has_gpus(),
        )
        return run_as_task(teachers.finish, folder, run_training(spec, workers))

    @property
    def _audio_content(self) -> dict[str, Any]:
        return plain(self.recipe.audio)

    def _source(self, stage: Stage) -> TeacherSource:
        return teachers.source_of(stage.folder(self.output))

    # -- embeddings ---------------------------------------------------------------------------------------------------

    def _job(self, model: Stage, folder: storage.Location, num_crops: int | None = None) -> EmbedJob:
        about = teachers.about(model.folder(self.output))
        embed = self.recipe.curation.embed
        if num_crops is not None:
            embed = embed.model_copy(update={"num_crops": num_crops})
        audio = AudioSettings(**{**self._audio_content, "sample_rate": about["sample_rate"]})
        return EmbedJob(
            model=self._source(model),
            output=folder,
            workers=self.recipe.cluster.embedding,
            audio=audio,
            crop_samples=about["crop_samples"],
            embed=embed,
            metadata={
                "model": about["fingerprint"],
                "sample_rate": str(about["sample_rate"]),
                "crop_samples": str(about["crop_samples"]),
                "num_crops": str(embed.num_crops),
            },
        )

    @cached_property
    def embed_captions(self) -> Stage:
        """The teacher's embedding of every caption of the pool."""

        def run(folder: storage.Location) -> dict[str, Any]:
            shards = roles.caption_shards(self.pool.folder(self.output))
            return embed_captions(shards, self._job(self.teacher, folder))

        return Stage("embed/captions", run, inputs=[self.pool, self.teacher])

    @cached_property
    def embed_wild(self) -> Stage:
        """The teacher's embedding of every clip of the pool."""
        return self._embed_clips("embed/wild", self._corpora["wild"], self.teacher, None)

    def _embed_clips(self, name: str, corpus: Stage, model: Stage, num_crops: int | None) -> Stage:
        def run(folder: storage.Location) -> dict[str, Any]:
            shards = roles.clip_shards(corpus.folder(self.output))
            return embed_clips(shards, self._job(model, folder, num_crops))

        embed = plain(self.recipe.curation.embed) | ({"num_crops": num_crops} if num_crops is not None else {})
        covered = {name: value for name, value in embed.items() if name not in ("max_failed_share",)}
        return Stage(name, run, settings={"embed": covered, "audio": self._audio_content}, inputs=[corpus, model])

    @cached_property
    def domain(self) -> Stage | None:
        """The similarity of every caption to the labels of the downstream domain."""
        return self._domain_of(self.recipe)

    def _domain_of(self, student: CurateAndTrainRecipe) -> Stage | None:
        names = student.curation.domain or tuple(self.recipe.corpora.evaluation)
        unknown = [name for name in names if name not in self.recipe.corpora.evaluation]
        if unknown:
            known = ", ".join(self.recipe.corpora.evaluation) or "none"
            raise ConfigError(f"curation.domain: no evaluation set {unknown[0]!r}; there are {known}")
        if not names:
            return None
        corpora = [self._corpora[f"evaluation/{name}"] for name in names]
        prompt = self.recipe.evaluation.zero_shot.prompt

        def run(folder: storage.Location) -> dict[str, Any]:
            return run_as_task(
                curation_facts.caption_domain,
                folder,
                self.embed_captions.folder(self.output),
                [stage.folder(self.output) for stage in corpora],
                self._source(self.teacher),
                prompt,
            )

        inputs = [self.embed_captions, self.teacher, *corpora]
        stage_name = "domain" if len(names) == len(self.recipe.corpora.evaluation) else f"domain/{'+'.join(names)}"
        return Stage(stage_name, run, settings={"prompt": plain(prompt)}, inputs=inputs)

    # -- pairs --------------------------------------------------------------------------------------------------------

    @cached_property
    def match(self) -> Stage:
        """Every pair above the floor, with its ranks."""
        floor = self.recipe.lowest_threshold()

        def run(folder: storage.Location) -> dict[str, Any]:
            clips, captions = self.embed_wild.folder(self.output), self.embed_captions.folder(self.output)
            scored = storage.join(folder, "scored")
            counts = make_shards(
                sorted(Ledger(clips).records()),
                scored,
                MatchShards,
                {"clips": clips, "captions": captions, "floor": floor},
                what="match",
                workers=64,
            )
            ranked = run_as_task(curation_facts.rank_all, scored, folder, captions)
            return counts | ranked

        return Stage("match", run, settings={"floor": floor}, inputs=[self.embed_wild, self.embed_captions])

    @cached_property
    def neighbours(self) -> Stage:
        """The k nearest captions of every clip, and the k nearest clips of every caption."""
        curation = self.recipe.curation
        margins = [student.curation.margin for student in self.students.values()]
        k = max([curation.neighbours, *(margin.num_neighbours for margin in margins if margin)])

        def run(folder: storage.Location) -> dict[str, Any]:
            clips, captions = self.embed_wild.folder(self.output), self.embed_captions.folder(self.output)
            num_captions, index = count_rows(captions), None
            about = {"captions": num_captions, "exact": True, "recall": 1.0}
            if num_captions > curation.neighbour_index.exact_up_to:
                index = storage.join(folder, "captions.faiss")
                about = run_as_task(prepare_index, captions, clips, index, curation.neighbour_index)
            counts = make_shards(
                neighbour_shards(clips, captions),
                folder,
                NeighbourShards,
                {"clips": clips, "captions": captions, "k": k, "index": index},
                what="neighbours",
                workers=64,
            )
            return counts | {"k": k, "index": about}

        settings = {"k": k, "index": plain(curation.neighbour_index)}
        return Stage("neighbours", run, settings=settings, inputs=[self.embed_wild, self.embed_captions])

    @cached_property
    def screen(self) -> Stage | None:
        """Clips of the pool left out: near-duplicates of evaluation clips, and of each other."""
        curation = self.recipe.curation
        wanted = {
            "exclude_overlap_similarity": curation.exclude_overlap_similarity,
            "duplicate_similarity": curation.duplicate_similarity,
        }
        if not any(wanted.values()):
            return None
        evaluation = list(self._teacher_on_evaluation.values())

        def run(folder: storage.Location) -> dict[str, Any]:
            return run_as_task(
                curation_facts.screen,
                folder,
                self.embed_wild.folder(self.output),
                {name: stage.folder(self.output) for name, stage in self._teacher_on_evaluation.items()},
                wanted["exclude_overlap_similarity"],
                wanted["duplicate_similarity"],
            )

        inputs = [self.embed_wild, *(evaluation if wanted["exclude_overlap_similarity"] else [])]
        return Stage("screen", run, settings=wanted, inputs=inputs)

    @cached_property
    def _selections(self) -> dict[str, Stage]:
        """The selections that students train on or replay, by the digest of their rule: the same rule is run once."""
        stages: dict[str, Stage] = {}
        for student in self.students.values():
            for settings in _selections_needed(student):
                domain = self._domain_of(student) if settings.strategy in ("DS", "ADS") else None
                key = _selection_key(settings, domain)
                if key not in stages:
                    name = f"select/{settings.strategy}_{_threshold(settings):g}"
                    taken = any(stage.name == name for stage in stages.values())
                    stages[key] = self._selection(f"{name}_{key[:6]}" if taken else name, settings, domain)
        return stages

    def _selection_stage(self, student: CurateAndTrainRecipe, settings: SelectionSettings) -> Stage:
        domain = self._domain_of(student) if settings.strategy in ("DS", "ADS") else None
        return self._selections[_selection_key(settings, domain)]

    def _selection(self, name: str, settings: SelectionSettings, domain: Stage | None) -> Stage:
        if settings.strategy in ("DS", "ADS") and domain is None:
            raise ConfigError(
                f"curation.strategy {settings.strategy}: needs corpora.evaluation, whose labels are its domain"
            )
        if settings.strategy == "DS":
            return self._annotated_selection(name, settings, domain)
        materialize = self.recipe.curation.materialize_audio
        neighbour_stage = self.neighbours if settings.margin else None

        def run(folder: storage.Location) -> dict[str, Any]:
            pairs = self.match.folder(self.output)
            domain_folder = domain.folder(self.output) if domain else None
            neighbours = neighbour_stage.folder(self.output) if neighbour_stage else None
            facts = run_as_task(curation_facts.facts_for, pairs, settings, domain_folder, neighbours)
            clips = {
                storage.name_of(shard): shard for shard in roles.clip_shards(self._corpora["wild"].folder(self.output))
            }
            arguments = {
                "pairs": pairs,
                "clips": clips,
                "captions": roles.caption_shards(self.pool.folder(self.output)),
                "settings": settings,
                "facts": facts,
                "teacher": teachers.about(self.teacher.folder(self.output))["fingerprint"],
                "excluded": storage.join(self.screen.folder(self.output), "rejects.parquet") if self.screen else None,
                "neighbours": neighbours,
                "materialize_audio": materialize,
            }
            counts = make_shards(
                sorted(Ledger(pairs).records()), folder, SelectShards, arguments, what=name, workers=64
            )
            return _improvement_set_counts(counts, name)

        inputs = [self.match, self.pool, self._corpora["wild"], self.teacher]
        inputs += [stage for stage in (domain, self.screen, neighbour_stage) if stage]
        content = plain(settings) | {"materialize_audio": materialize}
        return Stage(name, run, settings=content, inputs=inputs)

    def _annotated_selection(self, name: str, settings: SelectionSettings, domain: Stage | None) -> Stage:
        if "teacher" not in self._corpora or not self.recipe.corpora.use_teacher_captions:
            raise ConfigError("curation.strategy DS: needs corpora.teacher and corpora.use_teacher_captions true")
        corpus = self._corpora["teacher"]
        assert domain is not None

        def run(folder: storage.Location) -> dict[str, Any]:
            shards = roles.clip_shards(corpus.folder(self.output))
            arguments = {
                "clips": {storage.name_of(shard): shard for shard in shards},
                "domain": domain.folder(self.output),
                "settings": settings,
                "teacher": teachers.about(self.teacher.folder(self.output))["fingerprint"],
            }
            names = sorted(arguments["clips"])
            counts = make_shards(names, folder, curation_facts.AnnotatedShards, arguments, what=name, workers=64)
            return _improvement_set_counts(counts, name)

        return Stage(name, run, settings=plain(settings), inputs=[corpus, domain, self.teacher])

    @cached_property
    def statistics(self) -> Stage:
        """Histograms, keep-rates, precision against hidden labels, hubness, and pairs to listen to."""
        selections = list(self._selections.values())
        recipe = self.recipe

        def run(folder: storage.Location) -> dict[str, Any]:
            return run_as_task(
                curation_facts.statistics,
                folder,
                curation_facts.StatisticsInputs(
                    pairs=self.match.folder(self.output),
                    captions=self.pool.folder(self.output),
                    wild=self._corpora["wild"].folder(self.output),
                    domain=self.domain.folder(self.output) if self.domain else None,
                    neighbours=self.neighbours.folder(self.output),
                    selections={stage.name: stage.folder(self.output) for stage in selections},
                    thresholds={stage.name: _threshold_of(stage) for stage in selections},
                    floor=recipe.lowest_threshold(),
                    num_clips=count_rows(self.embed_wild.folder(self.output)),
                    num_captions=count_rows(self.embed_captions.folder(self.output)),
                    hubness_k=recipe.curation.neighbours,
                    per_class=recipe.report.players_per_class,
                    classes=recipe.report.listening_classes,
                    screened=storage.join(self.screen.folder(self.output), "rejects.parquet") if self.screen else None,
                ),
            )

        inputs = [self.match, self.neighbours, self.pool, self._corpora["wild"]]
        inputs += [*(stage for stage in (self.domain, self.screen) if stage), *selections]
        settings = {"players": recipe.report.players_per_class, "classes": recipe.report.listening_classes}
        settings |= {"hubness_k": recipe.curation.neighbours}
        return Stage("select/statistics", run, settings=settings, inputs=inputs)

    # -- students -----------------------------------------------------------------------------------------------------

    @cached_property
    def _students(self) -> dict[str, Stage]:
        return {name: self._student(name, student) for name, student in self.students.items()}

    def _student(self, name: str, student: CurateAndTrainRecipe) -> Stage:
        chosen, held_out = selection_of(student), self._corpora.get("held_out")
        if held_out is None:
            raise ConfigError("corpora.held_out: is empty; a student's checkpoint is chosen on it")
        replay = replay_source(student) if student.student.objective.replay_probability > 0 else "none"
        from_teacher = student.student.train_on == "teacher_pairs"
        if (from_teacher or replay == "teacher") and "teacher" not in self._corpora:
            raise ConfigError(f"{name}: trains on or replays the teacher's pairs, and corpora.teacher is empty")
        main = self._corpora["teacher"] if from_teacher else self._selection_stage(student, chosen)
        if replay == "ds":
            replayed: Stage | None = self._selection_stage(student, ds_of(chosen))
        else:
            replayed = self._corpora["teacher"] if replay == "teacher" else None

        def files(stage: Stage) -> list[storage.Location]:
            folder = stage.folder(self.output)
            return roles.clip_shards(folder) if stage.name.startswith("corpora/") else Ledger(folder).files()

        def run(folder: storage.Location) -> dict[str, Any]:
            teachers.require_warm_start(self.teacher.folder(self.output))
            spec = teachers.student_spec(
                student,
                folder,
                self.teacher.folder(self.output),
                files(main),
                files(replayed) if replayed else [],
                files(held_out),
            )
            return self._train(folder, spec)

        content = plain(student.student) | {"seed": student.seed, "audio": self._audio_content}
        inputs = [self.teacher, main, held_out, *([replayed] if replayed else [])]
        return Stage(f"student/{name}", run, settings=content, inputs=inputs)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    @cached_property
    def _teacher_on_evaluation(self) -> dict[str, Stage]:
        """By evaluation set; apart from the students', because `screen` needs them before there is a student."""
        return {
            name: self._evaluation_embedding(name, TEACHER, self.teacher) for name in self.recipe.corpora.evaluation
        }

    @cached_property
    def _evaluation_embeddings(self) -> dict[str, Stage]:
        stages = {}
        for set_name, stage in self._teacher_on_evaluation.items():
            stages[f"{set_name}/{TEACHER}"] = stage
            for model_name, model in self._students.items():
                stages[f"{set_name}/{model_name}"] = self._evaluation_embedding(set_name, model_name, model)
        return stages

    def _evaluation_embedding(self, set_name: str, model_name: str, model: Stage) -> Stage:
        corpus = self._corpora[f"evaluation/{set_name}"]
        crops = self.recipe.evaluation.zero_shot.crops_per_clip
        return self._embed_clips(f"evaluate/{set_name}/{model_name}", corpus, model, crops)

    @cached_property
    def scores(self) -> Stage | None:
        """Zero-shot and retrieval scores of the teacher and every student, side by side."""
        if not self._evaluation_embeddings:
            return None
        recipe = self.recipe
        models = {TEACHER: self.teacher} | dict(self._students)
        corpora = {name: self._corpora[f"evaluation/{name}"] for name in recipe.corpora.evaluation}

        def run(folder: storage.Location) -> dict[str, Any]:
            return run_as_task(
                final_scores.score,
                folder,
                {name: stage.folder(self.output) for name, stage in corpora.items()},
                {name: stage.folder(self.output) for name, stage in models.items()},
                {key: stage.folder(self.output) for key, stage in self._evaluation_embeddings.items()},
                recipe.evaluation,
                recipe.seed,
            )

        inputs = [*self._evaluation_embeddings.values(), *models.values(), *corpora.values()]
        content = plain(recipe.evaluation) | {"seed": recipe.seed}
        return Stage("evaluate/scores", run, settings=content, inputs=inputs)

    @cached_property
    def report(self) -> Stage:
        """`summary.json` and `report/index.html`."""
        before = self._before_report

        def run(folder: storage.Location) -> dict[str, Any]:
            return run_report.write(self.recipe, self.output, before, folder)

        settings = {"report": plain(self.recipe.report), "recipe": config.digest(self.recipe)}
        return Stage("report", run, settings=settings, inputs=before)


def _selections_needed(student: CurateAndTrainRecipe) -> list[SelectionSettings]:
    chosen = selection_of(student)
    needed = [chosen] if student.student.train_on == "improvement_set" else []
    if student.student.objective.replay_probability > 0 and replay_source(student) == "ds":
        needed.append(ds_of(chosen))
    return needed


def _selection_key(settings: SelectionSettings, domain: Stage | None) -> str:
    return config.digest({"rule": plain(settings), "domain": domain.digest if domain else None})


def has_gpus() -> bool:
    """Whether the cluster has a GPU now."""
    return ray.cluster_resources().get("GPU", 0) >= 1


def count_rows(embeddings: storage.Location) -> int:
    """Rows that an embedding stage kept."""
    return sum(record.outcomes.get(KEPT, 0) for record in Ledger(embeddings).records().values())


def selection_of(recipe: CurateAndTrainRecipe) -> SelectionSettings:
    """The rule of `curation`, without the settings of other stages, with released thresholds where asked for."""
    fields = set(SelectionSettings.model_fields)
    values = {name: value for name, value in plain(recipe.curation).items() if name in fields}
    settings = SelectionSettings(**values)
    if recipe.curation.released_thresholds:
        settings = with_domain_thresholds(settings, recipe.curation.released_thresholds)
    if settings.strategy != "DS":
        return settings
    if settings.cap_per_caption is not None:
        raise ConfigError("curation.cap_per_caption: not with strategy DS, which keeps annotated pairs as they are")
    return ds_of(settings)


def ds_of(settings: SelectionSettings) -> SelectionSettings:
    """The DS rule of `settings`; what DS does not use is left at its default, so that equal rules are one stage."""
    return SelectionSettings(strategy="DS", caption_threshold=settings.caption_threshold)


def replay_source(student: CurateAndTrainRecipe) -> str:
    """What a student replays: `teacher`, `ds` or `none`."""
    asked = student.student.replay_from
    if asked != "auto":
        return asked
    if student.student.train_on == "teacher_pairs" or student.curation.strategy == "DS":
        return "none"
    return "ds" if student.curation.strategy == "ADS" else "teacher"


def _threshold(settings: SelectionSettings) -> float:
    return settings.caption_threshold if settings.strategy == "DS" else settings.similarity_threshold


def _threshold_of(stage: Stage) -> float:
    settings = stage.settings
    return settings["caption_threshold" if settings["strategy"] == "DS" else "similarity_threshold"]


def _improvement_set_counts(counts: dict[str, Any], name: str) -> dict[str, Any]:
    outcomes = counts["outcomes"]
    pairs = outcomes.get("pairs_kept", 0)
    if not pairs:
        raise DataError(
            f"{name}: no pair passes the rule, of {outcomes.get('pairs_left', 0)} above the floor; lower the threshold"
        )
    return counts | {"clips": counts["rows"], "pairs": pairs}


def stages(recipe: CurateAndTrainRecipe, output: storage.Location) -> list[Stage]:
    """The stages of a recipe."""
    return CurateAndTrain(recipe, output).stages


def preflight(recipe: CurateAndTrainRecipe, output: storage.Location, chosen: Sequence[Stage]) -> list[str]:
    """Check on the driver what can be checked before Ray starts; returns warnings.

    Raises:
        UserError: a path, a setting or a resource that cannot work.
    """
    return curation_preflight.check(recipe, output, chosen)


def finish(results: Mapping[str, StageResult], output: storage.Location) -> None:
    """Put the report where a person looks for it, when this run came that far."""
    if "report" in results:
        run_report.publish(results["report"].folder, output)


JOB: Job[CurateAndTrainRecipe] = Job(
    name="curate_and_train",
    about="From clips and captions to a better audio-text model and a report about it.",
    recipe_type=CurateAndTrainRecipe,
    default_recipe="quickstart.yaml",
    default_output=str(Path("runs") / "quickstart"),
    stages=stages,
    preflight=preflight,
    finish=finish,
    connect=lambda recipe: connect_ray(
        recipe.cluster.address,
        object_store_mib=recipe.cluster.object_store_mib,
        local_cpus=recipe.cluster.local_cpus,
    ),
)
