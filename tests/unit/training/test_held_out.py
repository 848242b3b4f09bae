from __future__ import annotations

import math

import pytest
import torch

from raysem.losses.contrastive import symmetric_contrastive_loss
from raysem.training.held_out import held_out_metrics


def test_with_different_captions_the_loss_is_the_contrastive_one():
    generator = torch.Generator().manual_seed(0)
    audio_ND, text_ND = torch.randn(9, 4, generator=generator), torch.randn(9, 4, generator=generator)
    found = held_out_metrics(audio_ND, text_ND, torch.tensor(5.0), [f"caption {i}" for i in range(9)])
    expected = float(symmetric_contrastive_loss(audio_ND, text_ND, torch.tensor(5.0)))
    assert found["held_out_loss"] == pytest.approx(expected, rel=1e-6)
    assert found["pairs"] == 9


def test_pairs_with_one_caption_are_right_for_one_another():
    audio_ND = torch.eye(3)[[0, 0, 1]]
    found = held_out_metrics(audio_ND, audio_ND, torch.tensor(50.0), ["rain", "rain", "a dog"])
    assert found["recall_at_1"] == 1.0
    assert found["held_out_loss"] == pytest.approx(2 / 3 * math.log(2), rel=1e-4)  # two of three choose between two


def test_recall_of_a_hand_worked_case():
    audio_ND = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    text_ND = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.2, 1.0]])
    found = held_out_metrics(audio_ND, text_ND, torch.tensor(1.0), ["a", "b", "c"])
    # Audio to text: a -> a, b -> a, c -> b. Text to audio: a -> a, b -> c, c -> c.
    assert found["recall_at_1_audio_to_text"] == pytest.approx(1 / 3)
    assert found["recall_at_1_text_to_audio"] == pytest.approx(2 / 3)
    assert found["recall_at_1"] == pytest.approx(1 / 2)
