"""The losses of tagging: each is the function of raysem/losses on the tagger's own outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_tagging import NAMES, TEXT_WIDTH, cnn14_settings, tiny_classes, tiny_tagger, with_statistics_of
from torch import Tensor

from raysem.config import build
from raysem.errors import ConfigError, DataError
from raysem.losses.alignment import alignment_loss
from raysem.losses.binary import binary_cross_entropy_with_logits
from raysem.losses.ontology_aware import ontology_aware_bce_with_logits
from raysem.models.tagger import Tagged, Tagger
from raysem.ontology.tag_classes import TagClasses
from raysem.training.context import process_settings
from raysem.training.loader import ClipBatch
from raysem.training.tag_objective import TaggingObjective, TagObjectiveSettings, soft_targets

# Shapes: B clips, K classes, D width of the class texts.

CPU = torch.device("cpu")
CLASSES = tiny_classes()
DISTANCE_KK = torch.from_numpy(CLASSES.distance_KK.astype(np.float32))
TEXT_KD = torch.from_numpy(np.array(CLASSES.text_KD))
LABELS: list[Mapping[str, float]] = [
    {"Bark": 1.0}, {"Siren": 1.0, "Rain": 1.0}, {}, {"Rain": 0.3, "Choir": 0.7},
    {"Meow": 0.4, "Thunder": 1.0, "Bark": 0.6},
]  # fmt: skip
ALL = TagObjectiveSettings(bce_weight=1.0, obce_weight=1.0, spa_weight=1.0)


def batch(labels: Sequence[Mapping[str, float]] = LABELS, order: Sequence[int] | None = None) -> ClipBatch:
    waveform_BT = 0.2 * torch.randn(len(labels), 8000, generator=torch.Generator().manual_seed(0)).cumsum(1) / 10
    places = list(order if order is not None else range(len(labels)))
    return ClipBatch(waveform_BT[places], [labels[place] for place in places], [f"clip-{place}" for place in places], 0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with process_settings(1, CPU):  # several are slower for so few channels
        yield


@pytest.fixture
def tagger() -> Tagger:
    """Sure of what it says, and in evaluation mode, so that the same clips give the same outputs."""
    model = with_statistics_of(batch().waveform_BT, tiny_tagger()).eval()
    assert model.classifier is not None
    model.classifier.weight.data *= 5
    return model


def outputs(tagger: Tagger, clips: ClipBatch) -> Tagged:
    with torch.no_grad():
        return tagger(clips.waveform_BT)


def losses(
    tagger: Tagger, settings: TagObjectiveSettings, clips: ClipBatch, classes: TagClasses = CLASSES
) -> dict[str, Tensor]:
    return TaggingObjective(tagger, classes, settings, CPU).losses(clips).losses


def test_targets_are_the_weights_of_the_labels_in_the_order_of_the_classes():
    targets_BK = soft_targets(LABELS, CLASSES)
    expected_BK = [
        [1, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0.3, 0.7, 0],
        [0.6, 0.4, 0, 0, 0, 1],
    ]
    assert targets_BK.dtype == torch.float32
    assert targets_BK.equal(torch.tensor(expected_BK))
    assert soft_targets([], CLASSES).shape == (0, len(NAMES))


def test_an_unknown_label_is_named_in_one_line(tagger: Tagger):
    with pytest.raises(
        DataError, match=r"a training clip: label 'Barks' is none of the 6 classes \(Bark, Meow"
    ) as raised:
        losses(tagger, TagObjectiveSettings(), batch([{"Bark": 1.0}, {"Barks": 0.4}]))
    assert "\n" not in str(raised.value)


TWINS: dict[str, tuple[TagObjectiveSettings, Callable[[Tagged, Tensor], Tensor]]] = {
    "bce": (
        TagObjectiveSettings(bce_weight=0.5),
        lambda found, y: binary_cross_entropy_with_logits(found.logits_BK, y),
    ),
    "obce": (
        TagObjectiveSettings(bce_weight=0, obce_weight=3),
        lambda found, y: ontology_aware_bce_with_logits(found.logits_BK, y, DISTANCE_KK),
    ),
    "obce of squared distances": (
        TagObjectiveSettings(bce_weight=0, obce_weight=1, obce_beta=2.0),
        lambda found, y: ontology_aware_bce_with_logits(found.logits_BK, y, DISTANCE_KK, beta=2.0),
    ),
    "spa": (
        TagObjectiveSettings(spa_weight=2),
        lambda found, y: alignment_loss(found.audio_BD, y, TEXT_KD),  # type: ignore[arg-type]
    ),
    "spa per label": (
        TagObjectiveSettings(spa_weight=2, spa_form="per_label"),
        lambda found, y: alignment_loss(found.audio_BD, y, TEXT_KD, form="per_label"),  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("case", TWINS)
def test_each_loss_is_the_function_on_the_outputs_without_its_weight(case: str, tagger: Tagger):
    settings, twin = TWINS[case]
    name = case.split()[0]
    expected = twin(outputs(tagger, batch()), soft_targets(LABELS, CLASSES))
    assert losses(tagger, settings, batch())[name].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_cases_are_five_different_numbers(tagger: Tagger):
    found = [losses(tagger, settings, batch())[case.split()[0]].item() for case, (settings, _) in TWINS.items()]
    assert len({round(value, 3) for value in found}) == 5, found


def test_the_weights_are_those_of_the_settings_and_none_is_computed_for_nothing(tagger: Tagger):
    for settings in (TagObjectiveSettings(), ALL, TagObjectiveSettings(bce_weight=0, obce_weight=0.5)):
        objective = TaggingObjective(tagger, CLASSES, settings, CPU)
        assert objective.weights == settings.by_name
        assert objective.losses(batch()).losses.keys() == settings.by_name.keys()
    assert TagObjectiveSettings().by_name == {"bce": 1.0}
    assert ALL.by_name == {"bce": 1.0, "obce": 1.0, "spa": 1.0}


def test_settings_that_train_no_classifier_are_refused():
    with pytest.raises(ConfigError, match="bce_weight and obce_weight are both 0: nothing trains the classifier"):
        build(TagObjectiveSettings, {"bce_weight": 0, "spa_weight": 1})
    with pytest.raises(ConfigError, match="spa_weight: expected greater than or equal to 0"):
        build(TagObjectiveSettings, {"spa_weight": -1})
    with pytest.raises(ConfigError, match="spa_form: expected 'label_mean' or 'per_label'"):
        build(TagObjectiveSettings, {"spa_form": "mean"})


def permuted() -> TagClasses:
    """The classes with the distances and the texts of others."""
    turned = [3, 5, 0, 4, 1, 2]
    return replace(CLASSES, distance_KK=CLASSES.distance_KK[np.ix_(turned, turned)], text_KD=TEXT_KD.numpy()[turned])


def test_with_the_weights_1_0_0_distances_and_texts_play_no_part(tagger: Tagger):
    def gradients(classes: TagClasses) -> list[Tensor]:
        tagger.zero_grad()
        losses(tagger, TagObjectiveSettings(), batch(), classes)["bce"].backward()
        return [p.grad.clone() for p in tagger.parameters() if p.grad is not None]

    plain, others = gradients(CLASSES), gradients(permuted())
    assert len(plain) > 10
    assert all(one.equal(two) for one, two in zip(plain, others, strict=True))
    without_texts = losses(tagger, TagObjectiveSettings(), batch(), replace(CLASSES, text_KD=None, texts=()))
    assert without_texts["bce"].equal(losses(tagger, TagObjectiveSettings(), batch())["bce"])


def test_with_all_weights_distances_move_obce_and_texts_move_spa(tagger: Tagger):
    one, two = losses(tagger, ALL, batch()), losses(tagger, ALL, batch(), permuted())
    assert one["bce"].equal(two["bce"])
    assert not torch.isclose(one["obce"], two["obce"])
    assert not torch.isclose(one["spa"], two["spa"])


@pytest.mark.parametrize("form", ["label_mean", "per_label"])
@pytest.mark.parametrize("labels", [LABELS, [{}] * 4, [{}, {"Rain": 0.0}, {}, {"Rain": 1.0}]])
def test_clips_without_labels_make_neither_losses_nor_gradients_nan(form: str, labels: list[Mapping[str, float]]):
    model = tiny_tagger(cnn14_settings()).train()
    settings = TagObjectiveSettings(bce_weight=1, obce_weight=1, spa_weight=1, spa_form=form)
    found = losses(model, settings, batch(labels))
    torch.stack(list(found.values())).sum().backward()
    assert all(loss.isfinite() for loss in found.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if not any(labels):
        assert found["spa"].item() == 0
        assert found["obce"].item() == pytest.approx(found["bce"].item() / 2, rel=1e-6)


def test_a_clip_without_labels_leaves_spa_to_the_others_and_counts_in_bce(tagger: Tagger):
    labelled = [k for k, labels in enumerate(LABELS) if labels]
    whole, rest = losses(tagger, ALL, batch()), losses(tagger, ALL, batch(order=labelled))
    assert whole["spa"].item() == pytest.approx(rest["spa"].item(), rel=1e-5)
    silent = losses(tagger, ALL, batch(order=[2]))
    expected = (4 * rest["bce"].item() + silent["bce"].item()) / 5
    assert whole["bce"].item() == pytest.approx(expected, rel=1e-5)


def test_soft_labels_go_through_obce_as_products_of_label_and_distance(tagger: Tagger):
    """One clip with 0.3 Rain and 0.7 Choir, written out class by class."""
    clips = batch([{"Rain": 0.3, "Choir": 0.7}])
    soft = {NAMES.index("Rain"): 0.3, NAMES.index("Choir"): 0.7}
    far = CLASSES.distance_KK.astype(float)
    nearest = [min(y * far[k, t] for t, y in soft.items() if t != k) for k in range(6)]
    value = [1.0 if k in soft else nearest[k] / max(nearest) for k in range(6)]
    total = 0.0
    for k, logit in enumerate(outputs(tagger, clips).logits_BK[0].tolist()):
        p, y = 1 / (1 + math.exp(-logit)), soft.get(k, 0.0)
        error = -y * math.log(p) - (1 - y) * math.log(1 - p)
        total += (value[k] / (sum(value) / 6) + 1) * error / 2 / 6
    assert losses(tagger, ALL, clips)["obce"].item() == pytest.approx(total, rel=1e-5)
    hard = losses(tagger, ALL, batch([{"Rain": 1.0, "Choir": 1.0}]))
    assert abs(hard["obce"].item() - total) > 1e-3


def test_soft_labels_go_through_spa_as_weights_of_the_texts(tagger: Tagger):
    clips = batch([{"Rain": 0.3, "Choir": 0.7}, {"Bark": 0.2}])
    audio_BD = outputs(tagger, clips).audio_BD
    assert audio_BD is not None
    rain, choir, bark = (TEXT_KD[NAMES.index(name)] for name in ("Rain", "Choir", "Bark"))
    cosines = [torch.cosine_similarity(audio_BD[0], 0.3 * rain + 0.7 * choir, dim=0).item(),
               torch.cosine_similarity(audio_BD[1], bark, dim=0).item()]  # fmt: skip
    assert losses(tagger, ALL, clips)["spa"].item() == pytest.approx(1 - sum(cosines) / 2, abs=1e-6)
    per_label = TagObjectiveSettings(spa_weight=1, spa_form="per_label")
    each = [torch.cosine_similarity(audio_BD[0], text, dim=0).item() for text in (rain, choir)]
    expected = 1 - (0.3 * each[0] + 0.7 * each[1] + cosines[1]) / 2
    assert losses(tagger, per_label, clips)["spa"].item() == pytest.approx(expected, abs=1e-6)


def test_the_order_of_clips_does_not_matter(tagger: Tagger):
    one, two = losses(tagger, ALL, batch()), losses(tagger, ALL, batch(order=[4, 2, 0, 3, 1]))
    for name, loss in one.items():
        assert two[name].item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("aligned", [False, True])
def test_every_parameter_that_a_loss_reaches_is_reached_and_no_other(aligned: bool):
    def with_gradient(loss_of: Callable[[TaggingObjective], Tensor]) -> set[str]:
        model = tiny_tagger()
        loss_of(TaggingObjective(model, CLASSES, ALL if aligned else TagObjectiveSettings(), CPU)).backward()
        return {name for name, parameter in model.named_parameters() if parameter.grad is not None}

    reached = with_gradient(lambda objective: objective.reached(batch().waveform_BT))
    assert reached == with_gradient(lambda objective: torch.stack([*objective.losses(batch()).losses.values()]).sum())
    assert any(name.startswith("projection.") for name in reached) == aligned
    assert "classifier.weight" in reached


def test_under_bf16_the_losses_are_fp32_and_near(tagger: Tagger):
    exact = losses(tagger, ALL, batch())
    objective = TaggingObjective(tagger, CLASSES, ALL, CPU)
    objective.use_half_precision(torch.bfloat16)
    for name, loss in objective.losses(batch()).losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.1)
        assert not loss.equal(exact[name]), name


def test_alignment_without_texts_or_projection_is_a_value_error(tagger: Tagger):
    with pytest.raises(ValueError, match="the classes have no texts"):
        TaggingObjective(tagger, replace(CLASSES, text_KD=None, texts=()), ALL, CPU)
    with pytest.raises(ValueError, match="the tagger has no projection"):
        TaggingObjective(tiny_tagger(cnn14_settings(projection="none")), CLASSES, ALL, CPU)
    assert CLASSES.text_KD is not None
    assert CLASSES.text_KD.shape == (6, TEXT_WIDTH)
