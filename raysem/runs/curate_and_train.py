"""`curate_and_train`: corpora -> teacher -> embed -> match -> select -> students -> evaluate -> report, as stages."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from raysem import storage
from raysem.config import plain
from raysem.curation.match_shards import MatchShards
from raysem.curation.neighbour_shards import NeighbourShards, neighbour_shards, prepare_index
from raysem.curation.pair_shards import SelectShards
from raysem.curation.ray_shards import make_shards, run_as_task
from raysem.curation.selection import SelectionSettings
from raysem.errors import ConfigError
from raysem.ledger import Ledger
from raysem.models.teacher import TeacherSource
from raysem.runs import curation_facts, curation_preflight, final_scores, model_record, roles, run_report, teachers
from raysem.runs.corpus_stages import caption_pool_stage, corpus_stages
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.runs.embedding_stages import EmbeddingStages, count_rows
from raysem.runs.launch import Job, connect_ray
from raysem.runs.published import finish, report_stage
from raysem.runs.selection_rules import (
    ds_of,
    improvement_set_counts,
    listening_rules,
    replay_source,
    selection_key,
    selection_name,
    selection_of,
    selections_needed,
    threshold_of,
)
from raysem.runs.training_stages import TEACHER, student_stage, teacher_stage
from raysem.stages import Stage, in_order


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

    # -- corpora, teacher, embeddings ---------------------------------------------------------------------------------

    @cached_property
    def _corpora(self) -> dict[str, Stage]:
        return corpus_stages(self.recipe, self.output)

    @cached_property
    def pool(self) -> Stage:
        """The pool of captions: every distinct one of the teacher's and of the captions' corpora."""
        return caption_pool_stage(self.recipe, self.output, self._corpora)

    @cached_property
    def teacher(self) -> Stage:
        """The teacher, trained or loaded; its folder names the weights in `model.json`."""
        return teacher_stage(self.recipe, self.output, self._corpora)

    def _source(self, stage: Stage) -> TeacherSource:
        return teachers.source_of(stage.folder(self.output))

    @cached_property
    def _embeddings(self) -> EmbeddingStages:
        return EmbeddingStages(self.recipe, self.output)

    @cached_property
    def embed_captions(self) -> Stage:
        """The teacher's embedding of every caption of the pool."""
        return self._embeddings.captions(self.pool, self.teacher)

    @cached_property
    def embed_wild(self) -> Stage:
        """The teacher's embedding of every clip of the pool."""
        return self._embeddings.clips("embed/wild", self._corpora["wild"], self.teacher)

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
            for settings in selections_needed(student):
                domain = self._domain_of(student) if settings.strategy in ("DS", "ADS") else None
                key = selection_key(settings, domain)
                if key not in stages:
                    name = selection_name(settings)
                    taken = any(stage.name == name for stage in stages.values())
                    stages[key] = self._selection(f"{name}_{key[:6]}" if taken else name, settings, domain)
        return stages

    def _selection_stage(self, student: CurateAndTrainRecipe, settings: SelectionSettings) -> Stage:
        domain = self._domain_of(student) if settings.strategy in ("DS", "ADS") else None
        return self._selections[selection_key(settings, domain)]

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
                "teacher": model_record.about(self.teacher.folder(self.output))["fingerprint"],
                "excluded": storage.join(self.screen.folder(self.output), "rejects.parquet") if self.screen else None,
                "neighbours": neighbours,
                "materialize_audio": materialize,
            }
            counts = make_shards(
                sorted(Ledger(pairs).records()), folder, SelectShards, arguments, what=name, workers=64
            )
            return improvement_set_counts(counts, name)

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
                "teacher": model_record.about(self.teacher.folder(self.output))["fingerprint"],
            }
            names = sorted(arguments["clips"])
            counts = make_shards(names, folder, curation_facts.AnnotatedShards, arguments, what=name, workers=64)
            return improvement_set_counts(counts, name)

        return Stage(name, run, settings=plain(settings), inputs=[corpus, domain, self.teacher])

    @cached_property
    def statistics(self) -> Stage:
        """Histograms, keep-rates, precision against hidden labels, hubness, and pairs to listen to."""
        selections = list(self._selections.values())
        recipe = self.recipe
        listening = self._listening

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
                    thresholds={stage.name: threshold_of(stage.settings) for stage in selections},
                    listening=listening,
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
        settings: dict[str, Any] = {
            "players": recipe.report.players_per_class,
            "classes": recipe.report.listening_classes,
        }
        settings |= {"hubness_k": recipe.curation.neighbours, "listening": listening}
        return Stage("select/statistics", run, settings=settings, inputs=inputs)

    @property
    def _listening(self) -> str | None:
        """The selection whose pairs the report plays."""
        for student, rule in listening_rules(self.recipe):
            key = selection_key(rule, self._domain_of(student) if rule.strategy == "ADS" else None)
            if key in self._selections:
                return self._selections[key].name
        return None

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
        return student_stage(
            name,
            student,
            self.output,
            teacher=self.teacher,
            pairs=main,
            held_out=held_out,
            replay=replayed,
        )

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
        return self._embeddings.clips(f"evaluate/{set_name}/{model_name}", corpus, model, num_crops=crops)

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
        return report_stage(self.recipe, self.output, self._before_report, run_report.write)


def stages(recipe: CurateAndTrainRecipe, output: storage.Location) -> list[Stage]:
    """The stages of a recipe."""
    return CurateAndTrain(recipe, output).stages


JOB: Job[CurateAndTrainRecipe] = Job(
    name="curate_and_train",
    about="From clips and captions to a better audio-text model and a report about it.",
    recipe_type=CurateAndTrainRecipe,
    default_recipe="quickstart.yaml",
    default_output=str(Path("runs") / "quickstart"),
    stages=stages,
    preflight=curation_preflight.check,
    check_resources=curation_preflight.check_resources,
    finish=finish,
    connect=lambda recipe: connect_ray(recipe.cluster),
    store=lambda recipe: recipe.cluster.storage,
)
