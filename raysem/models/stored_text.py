"""A text encoder within a checkpoint folder: its weights and small files, in the layout of Hugging Face."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor, nn

from raysem import storage
from raysem.models.checkpoint_folder import WEIGHTS_FILE, read_weights, write_weights
from raysem.text.encoder import TextEncoder, TextEncoderSettings

TEXT_FOLDER = "text_encoder"
TEXT_PREFIX = "text_encoder.base."


def write_text_encoder(folder: str, encoder: TextEncoder, state: dict[str, Tensor]) -> None:
    """Write `<folder>/text_encoder/`, and take the encoder's weights out of the state of the model that it is part of.

    Each weight stands in one file. What another encoder left there goes: a tokenizer is told by the files it finds.
    """
    storage.delete(storage.join(folder, TEXT_FOLDER))
    text = {name.removeprefix(TEXT_PREFIX): state.pop(name) for name in list(state) if name.startswith(TEXT_PREFIX)}
    for name, content in encoder.files.items():
        storage.write_bytes(storage.join(folder, TEXT_FOLDER, name), content)
    write_weights(storage.join(folder, TEXT_FOLDER, WEIGHTS_FILE), text)


def read_text_encoder(folder: str, settings: TextEncoderSettings) -> TextEncoder:
    """The encoder that `write_text_encoder` left in a folder; DataError where a file is missing or damaged."""
    where = storage.join(folder, TEXT_FOLDER)
    return TextEncoder(settings, location=where, weights=_read(folder))


def read_text_weights(folder: str) -> dict[str, Tensor]:
    """Its weights alone, by their names in the model that it is part of; DataError as above."""
    return {f"{TEXT_PREFIX}{name}": tensor for name, tensor in _read(folder).items()}


def _read(folder: str) -> dict[str, Tensor]:
    return read_weights(storage.join(folder, TEXT_FOLDER, WEIGHTS_FILE))


class LeftOutText(nn.Module):
    """In the place of a text encoder that was not built, for those who only embed audio; every use is an error.

    Args:
        width: W of the encoder that belongs here.
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def tokenize(self, *_: object) -> NoReturn:
        """No texts here."""
        raise RuntimeError("the model was loaded without its text encoder")

    forward = files_digest = tokenize
