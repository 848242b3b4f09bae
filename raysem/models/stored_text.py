"""A text encoder within a checkpoint folder: its weights and small files, in the layout of Hugging Face."""

from __future__ import annotations

from torch import Tensor

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
    return TextEncoder(settings, location=where, weights=read_weights(storage.join(where, WEIGHTS_FILE)))
