from __future__ import annotations

import pytest

from raysem.config import build
from raysem.errors import ConfigError
from raysem.text.prompts import PromptSettings, clean_label, prompt


@pytest.mark.parametrize(
    ("label", "cleaned"),
    [
        ("Dog_bark", "dog bark"),
        ("cafe/restaurant", "cafe restaurant"),
        ("  Church__Bells ", "church bells"),
        ("rain", "rain"),
    ],
)
def test_labels_are_lower_case_words(label: str, cleaned: str):
    assert clean_label(label) == cleaned
    assert clean_label(cleaned) == cleaned


def test_the_default_prompt_is_that_of_the_paper():
    assert prompt("Dog_bark") == "this is a sound of dog bark"


def test_other_braces_of_a_template_are_kept():
    assert prompt("Rain", "{loud} {label} {label}") == "{loud} rain rain"


def test_a_template_without_a_place_for_the_label_is_refused():
    with pytest.raises(ValueError, match=r"holds {label}, got 'a sound'"):
        prompt("rain", "a sound")
    with pytest.raises(ConfigError, match=r"template: a prompt template holds {label}"):
        build(PromptSettings, {"template": "a sound"})
