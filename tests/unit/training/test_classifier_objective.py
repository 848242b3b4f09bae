"""The losses of classification: against a loop that is written out, and what their gradients reach."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_classifying import TEMPLATES, classifier_settings, label_batch, text_without_dropout, tiny_classifier
from tiny_tagging import NAMES
from torch import Tensor

from raysem.config import build
from raysem.errors import ConfigError
from raysem.models.classifier import Classifier
from raysem.text.prompts import LabelPromptSettings
from raysem.training.classifier_objective import (
    ClassifierObjectiveSettings,
    LinearObjective,
    PromptObjective,
    label_places,
)
from raysem.training.context import LocalContext, process_settings
from raysem.training.loader import ClipBatch
from raysem.training.network import freeze_unreached

# Shapes: B clips, Q texts, K labels, C width of the shared space.

CPU = torch.device("cpu")
LABELS = ("Rain", "Bark", "Rain", "Thunder", "Bark", "Rain", "Choir")
FORMS = ("multi_positive", "diagonal")
KINDS: dict[str, dict[str, Any]] = {
    "frozen": {},
    "frozen, of the shared width": {"shared_width": 32},
    "trained": {"trained": True},
    "trained, cscm": {"trained": True, "similarity": "cscm"},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with process_settings(1, CPU):  # several are slower for so few channels
        yield


@pytest.fixture(scope="module")
def text(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_without_dropout(bert_folder, tmp_path_factory.mktemp("text") / "bert")


def classifier_of(text: Path, kind: str = "frozen", **changes: Any) -> Classifier:
    """In evaluation mode, so that the same clips give the same outputs."""
    return tiny_classifier(classifier_settings(text, **(KINDS[kind] | changes))).eval()


def objective_of(classifier: Classifier, form: str = "multi_positive") -> PromptObjective | LinearObjective:
    if not classifier.reads_text:
        return LinearObjective(classifier, CPU)
    return PromptObjective(classifier, ClassifierObjectiveSettings(form=form), CPU)


def loss_of(classifier: Classifier, batch: ClipBatch, form: str = "multi_positive") -> Tensor:
    (loss,) = objective_of(classifier, form).losses(batch).losses.values()
    return loss


def with_gradients(classifier: Classifier, loss: Tensor) -> dict[str, Tensor]:
    classifier.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in classifier.named_parameters() if p.grad is not None}


@torch.no_grad()
def cosines(classifier: Classifier, batch: ClipBatch) -> list[list[float]]:
    """Of each clip with each clip's label, whose vector is the mean of the unit vectors of its prompts."""
    assert classifier.text_encoder is not None
    audio_BC = F.normalize(classifier.encode_audio(batch.waveform_BT), dim=1)
    labels = []
    for name in batch.captions:
        sentences = [t.replace("{label}", classifier.settings.label_words[name]) for t in TEMPLATES]
        vectors = [classifier.encode_text(classifier.text_encoder.tokenize([sentence]))[0] for sentence in sentences]
        labels.append(sum(vector / vector.norm() for vector in vectors) / len(vectors))
    return [[float(F.cosine_similarity(audio_C, text_C, dim=0)) for text_C in labels] for audio_C in audio_BC]


def written_out(cosine: list[list[float]], scale: float, names: Sequence[str], form: str) -> float:
    """Mean over rows and directions of -sum_j target_ij log softmax_ij, one pair after the other."""
    size, total = len(cosine), 0.0
    for rows in (cosine, [[cosine[j][i] for j in range(size)] for i in range(size)]):
        for i, row in enumerate(rows):
            normaliser = math.log(sum(math.exp(scale * value) for value in row))
            same = [j for j in range(size) if (j == i if form == "diagonal" else names[j] == names[i])]
            total -= sum(scale * row[j] - normaliser for j in same) / len(same) / size / 2
    return total


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_cross_entropy_over_cosines_with_the_means_of_the_prompts(text: Path, kind: str, form: str):
    classifier = classifier_of(text, kind)
    for labels in (LABELS, NAMES, ("Siren", "Siren")):
        batch = label_batch(labels)
        cosine = cosines(classifier, batch)
        expected = written_out(cosine, math.exp(classifier.logit_scale.item()), labels, form)
        assert loss_of(classifier, batch, form).item() == pytest.approx(expected, rel=2e-5)
        assert max(map(max, cosine)) - min(map(min, cosine)) > 1e-3, "the clips must differ"


def test_an_ensemble_is_neither_its_first_prompt_nor_the_mean_of_long_and_short_vectors(text: Path):
    """Makes the vectors of one template a hundred times as long as the others: the unit vectors are what counts."""
    classifier, batch = classifier_of(text, trained=True), label_batch(LABELS)
    found = loss_of(classifier, batch).item()
    first = classifier_of(text, trained=True)
    first.settings = first.settings.model_copy(update={"prompts": LabelPromptSettings(templates=TEMPLATES[:1])})
    assert abs(loss_of(first, batch).item() - found) > 1e-4
    original = classifier.encode_text

    def longer(tokens: dict[str, Tensor]) -> Tensor:
        text_QC = original(tokens)
        return text_QC * torch.tensor([1.0, 100.0, 0.01]).repeat(len(text_QC) // 3)[:, None]

    classifier.encode_text = longer  # type: ignore[method-assign]
    assert loss_of(classifier, batch).item() == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("kind", ["frozen", "trained"])
def test_both_forms_and_their_gradients_agree_where_a_label_has_one_vector(text: Path, kind: str):
    """Rows of one class share their logits, so the targets of `diagonal` add up to the uniform ones."""
    classifier, batch = classifier_of(text, kind), label_batch(LABELS)
    one, two = (loss_of(classifier, batch, form) for form in FORMS)
    assert one.item() == pytest.approx(two.item(), rel=1e-5)
    first, second = with_gradients(classifier, one), with_gradients(classifier, two)
    largest = max(float(gradient.abs().max()) for gradient in first.values())
    for name, gradient in first.items():
        assert float((second[name] - gradient).abs().max()) < 1e-5 * largest, name


def test_a_batch_of_one_label_teaches_nothing_about_it_but_that_its_clips_are_alike(text: Path):
    """From clips to texts all logits of a row are equal: log B. From texts to clips at least the entropy, log B too."""
    classifier = classifier_of(text)
    loss = loss_of(classifier, label_batch(["Rain"] * 5))
    assert loss.item() >= math.log(5) - 1e-6
    same = ClipBatch(label_batch(["Rain"]).waveform_BT.repeat(5, 1), [{"Rain": 1.0}] * 5, ["a"] * 5, 0)
    assert loss_of(classifier, same).item() == pytest.approx(math.log(5), abs=1e-5)


@pytest.mark.parametrize("kind", ["frozen", "trained"])
def test_each_label_of_a_batch_is_encoded_once(text: Path, kind: str):
    classifier = classifier_of(text, kind)
    objective = objective_of(classifier)
    assert classifier.text_encoder is not None
    rows: list[int] = []
    classifier.text_encoder.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0]["input_ids"])))
    first = objective.losses(label_batch(LABELS)).losses["label_contrastive"]
    assert sum(rows) == 4 * len(TEMPLATES)
    second = objective.losses(label_batch(LABELS)).losses["label_contrastive"]
    assert sum(rows) == (4 if kind == "frozen" else 8) * len(TEMPLATES), "a frozen encoder's features are kept"
    assert first.equal(second)


def test_the_features_kept_are_no_more_than_the_settings_allow(text: Path):
    classifier = classifier_of(text)
    objective = PromptObjective(classifier, ClassifierObjectiveSettings(), CPU, text_cache_mib=0)
    assert classifier.text_encoder is not None
    rows: list[int] = []
    classifier.text_encoder.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0]["input_ids"])))
    losses = [objective.losses(label_batch(LABELS)).losses["label_contrastive"] for _ in range(2)]
    assert sum(rows) == 8 * len(TEMPLATES)
    assert losses[0].equal(losses[1])
    assert losses[0].equal(loss_of(classifier, label_batch(LABELS)))


def test_features_of_a_frozen_encoder_give_the_loss_of_the_trained_one(text: Path):
    frozen, through = classifier_of(text), classifier_of(text, "trained")
    batch = label_batch(LABELS)
    one, two = with_gradients(frozen, loss_of(frozen, batch)), with_gradients(through, loss_of(through, batch))
    assert loss_of(frozen, batch).item() == pytest.approx(loss_of(through, batch).item(), rel=1e-5)
    assert one.keys() == {name for name in two if not name.startswith("text_encoder.")}
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    assert all(float((two[name] - gradient).abs().max()) < 1e-4 * largest for name, gradient in one.items())


@pytest.mark.parametrize("kind", ["frozen", "trained", "baseline"])
def test_the_order_of_clips_does_not_matter(text: Path, kind: str):
    classifier = classifier_of(text, similarity=None) if kind == "baseline" else classifier_of(text, kind)
    one, two = (loss_of(classifier, label_batch(LABELS, order)) for order in (None, [6, 2, 0, 4, 3, 1, 5]))
    assert two.item() == pytest.approx(one.item(), rel=1e-5)


def test_the_baseline_is_the_cross_entropy_of_its_logits(text: Path):
    classifier, batch = classifier_of(text, similarity=None), label_batch(LABELS)
    with torch.no_grad():
        logits_BK = classifier.encode_audio(batch.waveform_BT)
    assert logits_BK.shape == (len(LABELS), len(NAMES))
    expected = 0.0
    for name, row in zip(LABELS, logits_BK.tolist(), strict=True):
        expected -= (row[NAMES.index(name)] - math.log(sum(map(math.exp, row)))) / len(LABELS)
    objective = LinearObjective(classifier, CPU)
    assert objective.losses(batch).losses["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)
    assert objective.weights == {"cross_entropy": 1.0}
    assert objective.parameters_to_log() == {}


def test_places_are_those_of_the_classifiers_labels(text: Path):
    classifier = classifier_of(text)
    assert label_places(label_batch(LABELS), classifier) == [3, 0, 3, 5, 0, 3, 4]
    assert classifier.labels == NAMES


@pytest.mark.parametrize(("encoder", "trained"), [("AST", True), ("CNN14", False)])
@pytest.mark.parametrize("similarity", [None, "mean", "cscm", "seq_lstm", "seq_transf"])
def test_the_gradient_reaches_what_is_trained_and_nothing_else(
    text: Path, similarity: str | None, encoder: str, trained: bool
):
    def built() -> Classifier:
        return classifier_of(text, similarity=similarity, encoder=encoder, trained=trained, shared_width=16)

    classifier = built()
    reached = with_gradients(classifier, objective_of(classifier).reached(label_batch(LABELS).waveform_BT)).keys()
    assert reached == with_gradients(classifier, loss_of(classifier, label_batch(LABELS))).keys()
    unreached = {name for name, p in classifier.named_parameters() if p.requires_grad} - reached
    assert any(name.startswith("text_encoder.") for name in reached) == (trained and similarity is not None)
    own = {name for name, _ in classifier.named_parameters() if not name.startswith(("encoder.", "text_encoder."))}
    assert own <= reached
    past_the_map = {f"encoder.network.fc1.{part}" for part in ("weight", "bias")}
    assert unreached == (past_the_map if encoder == "CNN14" and similarity is not None else set())
    assert sum(name.startswith("encoder.network.") for name in reached) > 10

    again = built()
    weights = {name: p.detach().clone() for name, p in again.named_parameters()}
    again.train()
    freeze_unreached(again, objective_of(again), again.crop_samples, LocalContext())
    assert {name for name, p in again.named_parameters() if p.requires_grad} == reached
    assert all(p.grad is None and p.equal(weights[name]) for name, p in again.named_parameters())
    assert again.training


def test_the_scale_is_learned_within_its_bounds_and_logged(text: Path):
    classifier = classifier_of(text)
    objective = objective_of(classifier)
    assert objective.parameters_to_log() == {"logit_scale": pytest.approx(8.0)}
    assert with_gradients(classifier, loss_of(classifier, label_batch(LABELS)))["logit_scale"] != 0
    for pushed, kept in ((50.0, 20.0), (-3.0, 1.0)):
        with torch.no_grad():
            classifier.logit_scale.fill_(pushed)
        assert objective.parameters_to_log() == {"logit_scale": pytest.approx(kept)}
        objective.after_step()
        assert math.exp(classifier.logit_scale.item()) == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize("kind", ["frozen", "trained", "baseline"])
def test_under_bf16_the_loss_is_fp32_and_near(text: Path, kind: str):
    classifier = classifier_of(text, similarity=None) if kind == "baseline" else classifier_of(text, kind)
    exact = loss_of(classifier, label_batch(LABELS))
    objective = objective_of(classifier)
    objective.use_half_precision(torch.bfloat16)
    (loss,) = objective.losses(label_batch(LABELS)).losses.values()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)
    assert not loss.equal(exact)


def test_an_unknown_form_is_refused_by_name():
    with pytest.raises(ConfigError, match="form: expected 'multi_positive' or 'diagonal'"):
        build(ClassifierObjectiveSettings, {"form": "printed"})
    assert ClassifierObjectiveSettings().form == "multi_positive"
