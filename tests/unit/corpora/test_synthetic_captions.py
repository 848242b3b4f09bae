from __future__ import annotations

import numpy as np
import pytest

from raysem.corpora.synthetic_captions import WORDINGS, caption
from raysem.corpora.synthetic_sounds import SOUNDS


def phrases(label: str) -> tuple[str, ...]:
    return WORDINGS[label].clauses + WORDINGS[label].nouns


def test_every_class_has_several_wordings_of_its_own():
    assert set(WORDINGS) == set(SOUNDS)
    assert all(len(wording.clauses) >= 3 and len(wording.nouns) >= 2 for wording in WORDINGS.values())
    everything = [phrase for label in WORDINGS for phrase in phrases(label)]
    assert len(everything) == len(set(everything))


@pytest.mark.parametrize("label", SOUNDS)
def test_a_caption_names_its_class_in_lower_case(label: str):
    rng = np.random.default_rng(0)
    drawn = {caption([label], rng, faint=True, noisy=True) for _ in range(60)}
    assert len(drawn) > 12
    assert all(any(phrase in text for phrase in phrases(label)) for text in drawn)
    assert all(text == text.lower().strip() and "  " not in text for text in drawn)


def test_a_caption_of_two_classes_names_both_the_louder_first():
    rng = np.random.default_rng(0)
    for _ in range(100):
        text = caption(["Rain", "Bark"], rng)
        first = min(text.find(phrase) for phrase in phrases("Rain") if phrase in text)
        second = min(text.find(phrase) for phrase in phrases("Bark") if phrase in text)
        assert first < second


def test_indoor_sounds_are_never_far_down_the_road():
    rng = np.random.default_rng(0)
    drawn = [caption(["Computer keyboard"], rng, faint=True) for _ in range(300)]
    assert not any("road" in text or "distance" in text for text in drawn)
    assert any("in the distance" in caption(["Siren"], rng, faint=True) for _ in range(100))


def test_three_classes_are_refused():
    with pytest.raises(ValueError, match="one or two classes"):
        caption(["Rain", "Bark", "Siren"], np.random.default_rng(0))
