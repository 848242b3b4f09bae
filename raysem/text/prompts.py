"""Label text: how the name of a class becomes a sentence that a text encoder reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import field_validator

from raysem.config import Settings
from raysem.errors import ConfigError

DEFAULT_TEMPLATE = "this is a sound of {label}"
SEMANTICAC_TEMPLATES = ("{label}", "a clip of {label}", "an audio clip of {label}")
"""The prompts of SemanticAC's Table 4, in its order; the last is the one that the paper uses."""


class PromptSettings(Settings):
    """How labels are worded. Wording moves zero-shot scores by points: it belongs beside every result."""

    template: str = DEFAULT_TEMPLATE
    """A sentence with `{label}` in it; the label is cleaned first."""

    @field_validator("template")
    @classmethod
    def _has_its_place(cls, template: str) -> str:
        _check_template(template)
        return template


class LabelPromptSettings(Settings):
    """How the labels of a classifier are worded."""

    templates: tuple[str, ...] = SEMANTICAC_TEMPLATES[-1:]
    """One sentence or more, each with `{label}` in it; of several, a class has the mean of their vectors."""

    @field_validator("templates")
    @classmethod
    def _are_templates(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        _check_templates(templates)
        return templates


def clean_label(label: str) -> str:
    """Lower case, "_" and "/" to spaces, runs of spaces to one: `Dog_bark` is "dog bark"."""
    return " ".join(label.lower().replace("_", " ").replace("/", " ").split())


def prompt(label: str, template: str = DEFAULT_TEMPLATE) -> str:
    """The sentence for one label. Other braces in the template stay as they are."""
    _check_template(template)
    return template.replace("{label}", clean_label(label))


def label_prompts(
    labels: Sequence[str], templates: Sequence[str], *, key: str, words: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], ...]:
    """One row per label, in their order, with one sentence per template.

    Labels are cleaned first, so `Dog_bark` and `dog bark` are one. Two labels with one sentence could not be told
    apart, whichever templates it comes from.

    Args:
        key: dotted key of the setting that names the labels, for messages.
        words: what a prompt calls a label, where that is not the label itself.

    Raises:
        ConfigError: no label, an empty one, or two with the same sentence.
    """
    if isinstance(labels, str) or isinstance(templates, str):
        raise ValueError(f"expected lists of labels and templates, got {labels!r} and {templates!r}")
    _check_templates(templates)
    if not labels:
        raise ConfigError(f"{key}: expected at least one label, got none")
    owner: dict[str, int] = {}
    rows = []
    for index, label in enumerate(labels):
        word = (words or {}).get(label, label)
        if not clean_label(word):
            raise ConfigError(f"{key}: label {index + 1} of {len(labels)} is empty ({label!r})")
        row = tuple(prompt(word, template) for template in templates)
        for sentence in row:
            first = owner.setdefault(sentence, index)
            if first != index:
                raise ConfigError(f"{key}: labels {labels[first]!r} and {label!r} have the same prompt {sentence!r}")
        rows.append(row)
    return tuple(rows)


def _check_templates(templates: Sequence[str]) -> None:
    if not templates:
        raise ValueError("expected at least one prompt template, got none")
    for index, template in enumerate(templates):
        _check_template(template)
        if template in templates[:index]:
            raise ValueError(f"prompt template {template!r} is written twice")


def _check_template(template: str) -> None:
    if "{label}" not in template:
        raise ValueError(f"a prompt template holds {{label}}, got {template!r}")
