from __future__ import annotations

import json

import numpy as np
import pytest

from raysem.evaluation.zero_shot import (
    ZeroShotProtocol,
    ZeroShotSettings,
    cosine_similarity,
    mean_of_crops,
    zero_shot,
)

PROTOCOL = ZeroShotProtocol(
    prompt_template="this is a sound of {label}",
    label_texts=("this is a sound of dog", "this is a sound of rain", "this is a sound of sea waves"),
    sample_rate=44100,
    crop_seconds=5.0,
    crops_per_clip=5,
)
LABELS = ["dog", "rain", "sea_waves"]


def evaluate(audio_AD, clip_labels, text_KD=None, labels=LABELS):
    text_KD = np.eye(len(labels)) if text_KD is None else text_KD
    return zero_shot(audio_AD, clip_labels, text_KD, labels, settings=ZeroShotSettings(), protocol=PROTOCOL)


def test_a_hand_worked_case_with_everything_that_goes_into_the_summary():
    audio = np.array([[1, 0.1, 0], [0, 1, 0.2], [0.1, 0.9, 0.3], [0, 0.8, 0.7]])
    result = evaluate(audio, ["dog", "rain", "sea_waves", "sea_waves"])
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert content["accuracy"] == 0.5
    assert content["interval"][0] <= 0.5 <= content["interval"][1]
    assert content["num_clips"] == 4
    assert content["per_class"]["sea_waves"] == {"accuracy": 0.0, "num_clips": 2}
    assert content["confusion"] == {"labels": LABELS, "counts": [[1, 0, 0], [0, 1, 0], [0, 2, 0]]}
    assert content["most_confused"] == [{"label": "sea_waves", "predicted": "rain", "num_clips": 2, "share": 1.0}]
    assert content["protocol"] == {
        "prompt_template": "this is a sound of {label}",
        "label_texts": list(PROTOCOL.label_texts),
        "sample_rate": 44100,
        "crop_seconds": 5.0,
        "crops_per_clip": 5,
        "label_cleaning": 'lower case, "_" and "/" to spaces',
        "padding": "repeat",
        "crop_pooling": "mean of the crops' normalised embeddings",
    }


def test_accuracy_does_not_depend_on_the_scale_of_embeddings_or_on_the_order_of_clips():
    generator = np.random.default_rng(0)
    audio, text = generator.normal(size=(60, 8)), generator.normal(size=(3, 8))
    clip_labels = [LABELS[i] for i in generator.integers(0, 3, 60)]
    scaled = audio * generator.uniform(0.1, 9, size=(60, 1))
    first, second = evaluate(audio, clip_labels, text), evaluate(scaled, clip_labels, text * 3)
    order = generator.permutation(60)
    third = evaluate(audio[order], [clip_labels[i] for i in order], text)
    np.testing.assert_array_equal(first.correct_A, second.correct_A)
    np.testing.assert_array_equal(first.correct_A[order], third.correct_A)
    assert first.interval == second.interval


def test_two_classes_with_one_prompt_share_their_clips():
    text = np.array([[1.0, 2, 3], [1, 2, 3], [-1, 0, 0]])
    result = evaluate(np.array([[1.0, 2, 2.5]] * 4), ["dog", "dog", "rain", "sea_waves"], text)
    assert result.correct_A.tolist() == [0.5, 0.5, 0.5, 0]
    assert np.isnan(evaluate(np.eye(3)[:1], ["dog"]).confusions.counts_KK).sum() == 0


def test_a_class_without_clips_has_no_accuracy_in_the_summary():
    assert evaluate(np.eye(3)[:1], ["dog"]).to_json()["per_class"]["rain"] == {"accuracy": None, "num_clips": 0}


def test_crops_of_a_clip_are_averaged_as_unit_vectors():
    crops = np.array([[10.0, 0], [0, 0.1], [0, 3.0]])
    np.testing.assert_allclose(mean_of_crops(crops, np.array([0, 0, 1]), 2), [[0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-7)
    with pytest.raises(ValueError, match="1 clips have no crop, the first is clip 1"):
        mean_of_crops(crops, np.array([0, 0, 2]), 3)


def test_equal_embeddings_tie_exactly_wherever_they_stand():
    generator = np.random.default_rng(0)
    row, texts = generator.normal(size=384), generator.normal(size=(37, 384))
    audio = np.vstack([generator.normal(size=(50, 384)), row, generator.normal(size=(11, 384)), row])
    similarity = cosine_similarity(audio.astype(np.float32), texts.astype(np.float32))
    np.testing.assert_array_equal(similarity[50], similarity[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(3), ["dog", "rain", "cat"], np.eye(3), LABELS), "1 labels of clips have no prompt: .'cat'."),
        ((np.eye(3), ["dog"], np.eye(3), LABELS), "3 for 1 clips"),
        ((np.zeros((0, 3)), [], np.eye(3), LABELS), "of no clips"),
        ((np.eye(3), LABELS, np.eye(3), ["dog", "dog", "rain"]), "listed twice: .'dog'."),
        ((np.diag([1.0, 0, 1]), LABELS, np.eye(3), LABELS), "1 embeddings are zero or not finite, the first is row 1"),
        ((np.eye(4)[:3], LABELS, np.eye(3), LABELS), "of one width"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(arguments, message):
    with pytest.raises(ValueError, match=message):
        zero_shot(*arguments, settings=ZeroShotSettings(), protocol=PROTOCOL)
