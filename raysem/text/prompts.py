"""Label text: how the name of a class becomes a sentence that a text encoder reads."""

from __future__ import annotations

from pydantic import field_validator

from raysem.config import Settings

DEFAULT_TEMPLATE = "this is a sound of {label}"


class PromptSettings(Settings):
    """How labels are worded. Wording moves zero-shot scores by points: it belongs beside every result."""

    template: str = DEFAULT_TEMPLATE
    """A sentence with `{label}` in it; the label is cleaned first."""

    @field_validator("template")
    @classmethod
    def _has_its_place(cls, template: str) -> str:
        _check_template(template)
        return template


def clean_label(label: str) -> str:
    """Lower case, "_" and "/" to spaces, runs of spaces to one: `Dog_bark` is "dog bark"."""
    return " ".join(label.lower().replace("_", " ").replace("/", " ").split())


def prompt(label: str, template: str = DEFAULT_TEMPLATE) -> str:
    """The sentence for one label. Other braces in the template stay as they are."""
    _check_template(template)
    return template.replace("{label}", clean_label(label))


def _check_template(template: str) -> None:
    if "{label}" not in template:
        raise ValueError(f"a prompt template holds {{label}}, got {template!r}")
