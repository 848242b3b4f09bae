"""The two files of a listening test that are read again: the key, and the answers of a rater."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from raysem import storage
from raysem.config import Settings, build
from raysem.errors import DataError
from raysem.remote import NOTHING_THERE

Model = Literal["first", "second"]
Vote = Literal["first", "second", "same"]
SAME: Literal["same"] = "same"
KEY_FORMAT: Literal["raysem-listening-key"] = "raysem-listening-key"
ANSWERS_FORMAT: Literal["raysem-listening-answers"] = "raysem-listening-answers"
_FORMATS = {KEY_FORMAT: "the key of a listening test", ANSWERS_FORMAT: "the answers of a rater"}


class SideKey(Settings):
    """One of the two lists of a clip. The page has the token and the tags, and not the model."""

    token: str
    model: Model
    tags: tuple[str, ...]


class ClipKey(Settings):
    """One clip; `token` stands for it in the page, as its id may name its class."""

    token: str
    clip_id: str
    left: SideKey
    right: SideKey

    def vote(self, choice: str) -> Vote | None:
        """What a choice says about the models; None for one that this clip does not have."""
        votes: dict[str, Vote] = {side.token: side.model for side in (self.left, self.right)}
        return SAME if choice == SAME else votes.get(choice)


class StudyKey(Settings):
    """What the rater must not have: which list is whose."""

    format: Literal["raysem-listening-key"] = KEY_FORMAT
    version: Literal[1] = 1
    study: str
    first: str
    """Location of the first model's predictions."""
    second: str
    seed: int
    clips: tuple[ClipKey, ...]


class Answer(Settings):
    """One answer as the page exports it."""

    clip: str
    choice: str
    """The token of the list that fits better, or "same"."""
    seconds: float = Field(ge=0)
    """How long the clip was on the screen, in all visits up to this choice."""


class AnswersFile(Settings):
    """What a rater hands in."""

    format: Literal["raysem-listening-answers"] = ANSWERS_FORMAT
    version: Literal[1] = 1
    study: str
    rater: str = Field(min_length=1)
    exported: str = ""
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class RaterAnswers:
    """One rater's votes by the token of the clip; clips without an answer are absent."""

    rater: str
    file: str
    votes: Mapping[str, Vote]
    num_left: int
    """Clips of which the left list was chosen, whosever it was."""
    seconds: Mapping[str, float]


def read_key(location: str) -> StudyKey:
    """The key that `raysem listen build` wrote.

    Raises:
        DataError, ConfigError: no such file, or not a key.
    """
    return build(StudyKey, _read(location, KEY_FORMAT), location)


def read_answers(location: str, key: StudyKey) -> RaterAnswers:
    """One rater's answers, checked against the key.

    Raises:
        DataError, ConfigError: no such file, not answers, of another study, a clip or a choice that the study has not,
            or a clip answered twice.
    """
    content = build(AnswersFile, _read(location, ANSWERS_FORMAT), location)
    if content.study != key.study:
        raise DataError(f"{location}: answers of study {content.study}, but the key is of study {key.study}")
    rater = " ".join(content.rater.split())
    if not rater:
        raise DataError(f"{location}: the rater has no name")
    clips = {clip.token: clip for clip in key.clips}
    votes: dict[str, Vote] = {}
    for number, answer in enumerate(content.answers, 1):
        where = f"{location}: answer {number}"
        if answer.clip not in clips:
            raise DataError(f"{where}: study {key.study} has no clip {answer.clip!r}")
        vote = clips[answer.clip].vote(answer.choice)
        if vote is None:
            raise DataError(f"{where}: choice {answer.choice!r} is neither a list of clip {answer.clip} nor {SAME!r}")
        if answer.clip in votes:
            raise DataError(f"{where}: clip {answer.clip} is answered twice")
        votes[answer.clip] = vote
    num_left = sum(answer.choice == clips[answer.clip].left.token for answer in content.answers)
    return RaterAnswers(rater, location, votes, num_left, {answer.clip: answer.seconds for answer in content.answers})


def _read(location: str, expected: str) -> dict[str, Any]:
    try:
        content = storage.read_json(location)
    except NOTHING_THERE:
        raise DataError(f"{location}: no such file") from None
    except (ValueError, RecursionError):  # not JSON, or not UTF-8
        raise DataError(f"{location}: not a JSON file, expected {_FORMATS[expected]}") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != expected:
        other = (
            f"this is {_FORMATS[found]}" if isinstance(found, str) and found in _FORMATS else "this is something else"
        )
        raise DataError(f"{location}: expected {_FORMATS[expected]}, {other}")
    return content
