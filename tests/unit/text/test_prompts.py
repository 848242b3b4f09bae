from __future__ import annotations

import re

import pytest

from raysem.config import build
from raysem.errors import ConfigError
from raysem.text.prompts import (
    SEMANTICAC_TEMPLATES,
    LabelPromptSettings,
    PromptSettings,
    clean_label,
    label_prompts,
    prompt,
)


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


def test_the_prompts_of_semanticac_are_those_of_its_table_and_the_last_is_the_default():
    assert SEMANTICAC_TEMPLATES == ("{label}", "a clip of {label}", "an audio clip of {label}")
    assert LabelPromptSettings().templates == ("an audio clip of {label}",)


def test_each_label_has_a_row_with_a_sentence_per_template_in_their_order():
    rows = label_prompts(["Dog_bark", "rain/hail"], SEMANTICAC_TEMPLATES, key="labels")
    assert rows == (
        ("dog bark", "a clip of dog bark", "an audio clip of dog bark"),
        ("rain hail", "a clip of rain hail", "an audio clip of rain hail"),
    )


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ([], "templates: expected at least one prompt template, got none"),
        (["{label}", "a sound"], "templates: a prompt template holds {label}, got 'a sound'"),
        (["{label}", "a {label}", "{label}"], "templates: prompt template '{label}' is written twice"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(templates: list[str], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(LabelPromptSettings, {"templates": templates})
    with pytest.raises(ValueError, match=re.escape(message.removeprefix("templates: "))):
        label_prompts(["rain"], templates, key="labels")


def test_two_labels_that_are_one_when_cleaned_are_refused():
    message = "data.labels: labels 'Dog_Bark' and 'dog bark' have the same prompt 'a clip of dog bark'"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        label_prompts(["Dog_Bark", "rain", "dog bark"], ["a clip of {label}"], key="data.labels")


def test_two_labels_with_one_sentence_from_different_templates_are_refused():
    """Neither template alone shows it."""
    labels = ["dog", "a clip of dog"]
    for template in ("{label}", "a clip of {label}"):
        assert len(label_prompts(labels, [template], key="labels")) == 2
    with pytest.raises(ConfigError, match="labels 'dog' and 'a clip of dog' have the same prompt 'a clip of dog'"):
        label_prompts(labels, ["{label}", "a clip of {label}"], key="labels")


@pytest.mark.parametrize("empty", ["", "  ", "_/"])
def test_an_empty_label_is_refused(empty: str):
    with pytest.raises(ConfigError, match=re.escape(f"--labels: label 2 of 3 is empty ({empty!r})")):
        label_prompts(["dog", empty, "rain"], SEMANTICAC_TEMPLATES, key="--labels")


def test_no_labels_are_refused_and_a_text_is_no_list():
    with pytest.raises(ConfigError, match="--labels: expected at least one label, got none"):
        label_prompts([], SEMANTICAC_TEMPLATES, key="--labels")
    with pytest.raises(ValueError, match="lists of labels and templates"):
        label_prompts("dog", SEMANTICAC_TEMPLATES, key="--labels")
    with pytest.raises(ValueError, match="lists of labels and templates"):
        label_prompts(["dog"], "{label}", key="--labels")
