from __future__ import annotations

import json

import numpy as np
import pytest

from raysem.evaluation.caption_retrieval import CaptionRetrievalSettings, caption_pairs, caption_retrieval

SETTINGS = CaptionRetrievalSettings(num_resamples=100)


def test_a_text_on_several_clips_is_one_caption_that_is_right_for_each():
    pairs = caption_pairs([["rain", "a storm"], ["rain"], ["dog", "dog"]])
    assert pairs.texts == ("rain", "a storm", "dog")
    assert list(zip(pairs.clip_P.tolist(), pairs.caption_P.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0), (2, 2)]


def test_a_perfect_model_scores_one_though_texts_are_shared():
    pairs = caption_pairs([["rain"], ["rain"], ["dog", "a dog barks"]])
    result = caption_retrieval(np.eye(2)[[0, 0, 1]], np.eye(2)[[0, 1, 1]], pairs, settings=SETTINGS).to_json()
    for direction in ("text_to_audio", "audio_to_text"):
        assert [result[direction][name] for name in ("R@1", "R@5", "R@10", "mAP@10")] == pytest.approx([1] * 4)


def test_a_hand_worked_case_with_everything_that_goes_into_the_summary():
    pairs = caption_pairs([["a", "b"], ["c"]])
    audio = np.array([[1.0, 0], [0, 1]])
    text = np.array([[1, 0.1], [0.1, 1], [0, 1]])  # caption b of clip 0 lies near clip 1
    result = json.loads(json.dumps(caption_retrieval(audio, text, pairs, settings=SETTINGS).to_json()))
    assert result["text_to_audio"]["R@1"] == pytest.approx(2 / 3)
    assert result["text_to_audio"]["mAP@10"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert result["audio_to_text"]["R@1"] == 1
    assert result["audio_to_text"]["mAP@10"] == pytest.approx(((1 + 2 / 2) / 2 + 1) / 2)
    assert (result["text_to_audio"]["num_queries"], result["text_to_audio"]["gallery_size"]) == (3, 2)
    low, high = result["text_to_audio"]["R@1_interval"]
    assert (low, high) == (0.5, 1)  # drawn by clip: clip 0 brings both its captions


def test_the_result_does_not_depend_on_the_order_of_clips():
    generator = np.random.default_rng(0)
    captions = [[f"caption {i}", f"other {i % 7}"] for i in range(30)]
    audio = generator.normal(size=(30, 5))
    text_of = {text: generator.normal(size=5) for own in captions for text in own}

    def run(order):
        pairs = caption_pairs([captions[i] for i in order])
        text = np.stack([text_of[t] for t in pairs.texts])
        return caption_retrieval(audio[order], text, pairs, settings=SETTINGS)

    first, second = run(np.arange(30)), run(generator.permutation(30))
    for name in ("text_to_audio", "audio_to_text"):
        a, b = getattr(first, name).scores, getattr(second, name).scores
        np.testing.assert_allclose(a.recall_QC.mean(axis=0), b.recall_QC.mean(axis=0))
        assert a.mean_average_precision() == pytest.approx(b.mean_average_precision())


def test_wrong_input_is_refused_with_what_was_found():
    with pytest.raises(ValueError, match="1 clips have no caption, the first is clip 1"):
        caption_pairs([["a"], []])
    with pytest.raises(ValueError, match="3 for 2 clips, 2 for 2 captions"):
        caption_retrieval(np.eye(3), np.eye(3)[:2], caption_pairs([["a"], ["b"]]), settings=SETTINGS)
