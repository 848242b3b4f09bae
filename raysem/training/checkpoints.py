"""Checkpoints of a training run, on a disk or an object store: whole or not there, the last few and the best.

    checkpoints/step_00000300/  trained.safetensors, training_state.pt, state.json, complete.json
    checkpoints/best_00000250/  trained.safetensors, state.json, complete.json

`complete.json` is written last and holds the digest of each file: a folder without it was cut short and is ignored.
Parameters that are not trained are left out; the run's initial model has them.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from raysem import storage
from raysem.errors import DataError, StorageError
from raysem.storage import Location

log = logging.getLogger(__name__)

Kind = Literal["step", "best"]
WEIGHTS, TENSORS, STATE, COMPLETE = "trained.safetensors", "training_state.pt", "state.json", "complete.json"


@dataclass(frozen=True)
class Checkpoint:
    """The content of one checkpoint. `tensors` is empty for a best one, which serves no resume."""

    step: int
    weights: dict[str, Tensor]
    tensors: dict[str, Any]
    state: dict[str, Any]


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters and all buffers of `model`, by name, without copies."""
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def load_trained_state(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Put `weights` into `model`; DataError naming the keys unless they are exactly its trained state."""
    own = trained_state(model)
    missing, left_over = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or left_over or shapes:
        raise DataError(
            f"{where}: is of another model; missing {missing}, left over {left_over}, other shape {sorted(shapes)}"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


class CheckpointFolder:
    """The checkpoints below one location. Only rank 0 writes; every rank reads."""

    def __init__(self, location: Location, *, keep_last: int = 2):
        if keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, got {keep_last}")
        self._location, self._keep_last = location, keep_last

    def save_step(self, step: int, model: nn.Module, *, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        """Write a checkpoint to resume from, then remove those that are no longer needed."""
        self._write("step", step, model, tensors, state)
        self._prune()

    def save_best(self, step: int, model: nn.Module, state: dict[str, Any]) -> None:
        """Write the weights of the best step so far. Earlier ones go when no kept checkpoint refers to them."""
        self._write("best", step, model, None, state)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint to resume from. One whose bytes do not match their digests is passed over."""
        for step in reversed(self._steps("step")):
            try:
                return self._read("step", step)
            except StorageError:  # it may be whole: another rank may read it, and go on from another step than this one
                raise
            except (DataError, FileNotFoundError) as error:
                log.warning("checkpoint of step %d is passed over: %s", step, error)
        return None

    def best(self, step: int) -> Checkpoint:
        """The best weights written at `step`."""
        return self._read("best", step)

    def delete(self) -> None:
        """Remove every checkpoint."""
        storage.delete(self._location)

    def _folder(self, kind: Kind, step: int) -> Location:
        return storage.join(self._location, f"{kind}_{step:08d}")

    def _steps(self, kind: Kind) -> list[int]:
        folders = storage.list_folders(self._location)
        found = (re.fullmatch(rf"{kind}_(\d+)", folder.rsplit("/", 1)[-1]) for folder in folders)
        return sorted(int(match[1]) for match in found if match)

    def _write(
        self, kind: Kind, step: int, model: nn.Module, tensors: dict[str, Any] | None, state: dict[str, Any]
    ) -> None:
        folder = self._folder(kind, step)
        storage.delete(folder)  # left by an attempt that was cut short; the marker goes with it
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in trained_state(model).items()}
        contents = {WEIGHTS: safetensors.torch.save(_without_sharing(weights))}
        if tensors is not None:
            buffer = io.BytesIO()
            torch.save(tensors, buffer)
            contents[TENSORS] = buffer.getvalue()
        for name, content in contents.items():
            storage.write_bytes(storage.join(folder, name), content)
        storage.write_json(storage.join(folder, STATE), {"step": step, **state})
        contents[STATE] = storage.read_bytes(storage.join(folder, STATE))
        storage.write_json(storage.join(folder, COMPLETE), {name: _digest(c) for name, c in contents.items()})

    def _read(self, kind: Kind, step: int) -> Checkpoint:
        folder = self._folder(kind, step)
        if not storage.exists(storage.join(folder, COMPLETE)):
            raise DataError(f"{folder}: was not written to its end")
        contents = {}
        for name, digest in storage.read_json(storage.join(folder, COMPLETE)).items():
            contents[name] = storage.read_bytes(storage.join(folder, name))
            if _digest(contents[name]) != digest:
                raise DataError(f"{storage.join(folder, name)}: differs from what was written")
        tensors = {}
        if TENSORS in contents:
            try:
                tensors = torch.load(io.BytesIO(contents[TENSORS]), weights_only=True, map_location="cpu")
            except pickle.UnpicklingError as error:  # torch's own message advises to run what is in it
                raise DataError(f"{storage.join(folder, TENSORS)}: holds more than tensors; refused") from error
        return Checkpoint(
            step,
            safetensors.torch.load(contents[WEIGHTS]),
            tensors,
            storage.read_json(storage.join(folder, STATE)),
        )

    def _prune(self) -> None:
        """Keep the last whole checkpoints and the best ones that they refer to."""
        steps = self._steps("step")
        kept = steps[-self._keep_last :]
        for step in steps[: -self._keep_last]:
            storage.delete(self._folder("step", step))
        states = [storage.read_json(storage.join(self._folder("step", step), STATE)) for step in kept]
        wanted = {state.get("best_step") for state in states}
        for step in self._steps("best"):
            if step not in wanted:
                storage.delete(self._folder("best", step))


def _without_sharing(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory (tied weights); those are written twice."""
    seen: set[int] = set()
    result = {}
    for name, tensor in weights.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
