from __future__ import annotations

import torch
from tiny_training import TinyNetwork, TinyText

from raysem.training.objective import ObjectiveSettings, SoftLabelObjective, TextInputs, build_objective
from raysem.training.text_features import CaptionFeatures, same_weights

CPU = torch.device("cpu")


class CountingText(TinyText):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        self.asked += texts
        return super().tokenize(texts)


def test_each_distinct_caption_is_encoded_once_and_rows_keep_their_order():
    encoder = CountingText()
    features = CaptionFeatures(encoder, CPU)
    first = features(["rain", "a dog", "rain"])
    second = features(["a dog", "a bell", "rain"])
    assert encoder.asked == ["rain", "a dog", "a bell"]
    expected = torch.cat([encoder(encoder.tokenize([text])) for text in ["rain", "a dog", "rain"]])
    torch.testing.assert_close(first, expected)
    assert torch.equal(second[0], first[1])
    assert torch.equal(second[2], first[0])
    assert not first.requires_grad


def test_a_caption_s_features_do_not_depend_on_its_company():
    encoder = TinyText()
    alone = CaptionFeatures(encoder, CPU)(["rain"])
    together = CaptionFeatures(encoder, CPU)(["a much longer caption than the other", "rain"])
    assert torch.equal(alone[0], together[1])


def test_the_cache_forgets_what_was_not_used_for_longest():
    encoder = CountingText()
    features = CaptionFeatures(encoder, CPU, cache_mib=1)
    features._max_bytes = 2 * 6 * 4
    for caption in ["one", "two", "one", "three", "one", "two"]:
        features([caption])
    assert encoder.asked == ["one", "two", "three", "two"]


def test_a_frozen_encoder_runs_without_dropout_and_keeps_its_mode():
    encoder = TinyText()
    encoder.add_module("dropout", torch.nn.Dropout(0.9))
    encoder.train()
    CaptionFeatures(encoder, CPU)(["rain"])
    assert encoder.training


def test_tokens_are_the_input_where_the_encoder_is_trained():
    assert isinstance(TextInputs(TinyNetwork(text_trained=False), CPU)(["rain"]), torch.Tensor)
    tokens = TextInputs(TinyNetwork(text_trained=True), CPU)(["rain"])
    assert isinstance(tokens, dict)
    assert set(tokens) == {"input_ids"}


def test_a_warm_started_student_shares_its_teacher_s_caption_features():
    settings = ObjectiveSettings(soft_label_weight=0.3)
    student = TinyNetwork(seed=0)
    same = build_objective(student, settings, CPU, load_teacher=lambda: TinyNetwork(seed=0))
    other = build_objective(student, settings, CPU, load_teacher=lambda: TinyNetwork(seed=1))
    assert isinstance(same, SoftLabelObjective)
    assert isinstance(other, SoftLabelObjective)
    assert same._teacher_text.features is same.text_inputs.features
    assert other._teacher_text.features is not other.text_inputs.features
    assert same_weights(TinyNetwork(seed=0), TinyNetwork(seed=0))
    assert not same_weights(TinyNetwork(seed=0), TinyNetwork(seed=1))


def test_no_teacher_is_loaded_without_soft_labels():
    def load_teacher() -> torch.nn.Module:
        raise AssertionError("not needed")

    build_objective(TinyNetwork(), ObjectiveSettings(), CPU, load_teacher=load_teacher)
