"""Crops and padding of one clip. Every choice is a function of its arguments: the worker plays no part in it."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

# Shapes: T samples of the clip, P samples of a crop, K crops.

Padding = Literal["zero", "edge"]


def train_crop(
    samples_T: np.ndarray, num_samples: int, *, seed: int, epoch: int, clip_id: str, fill: Padding = "zero"
) -> np.ndarray:
    """A random crop; a shorter clip is padded at a random offset: with zeros, or with its first and last sample.

    The offset is drawn by hashing (seed, epoch, clip_id), so it is the same on every worker, in every order and in
    every process (Python's own `hash` is salted per process).
    """
    _check(samples_T, num_samples)
    spare = len(samples_T) - num_samples
    offset = _draw(abs(spare) + 1, seed=seed, epoch=epoch, clip_id=clip_id)
    if spare >= 0:
        return samples_T[offset : offset + num_samples].copy()  # a view would hold half an hour for ten seconds
    padded_P = np.zeros(num_samples, dtype=samples_T.dtype)
    padded_P[offset : offset + len(samples_T)] = samples_T
    if fill == "edge":
        padded_P[:offset], padded_P[offset + len(samples_T) :] = samples_T[0], samples_T[-1]
    return padded_P


def even_crops(samples_T: np.ndarray, num_samples: int, num_crops: int) -> np.ndarray:
    """Evenly placed crops (K, num_samples): the first at the start, the last at the end; a single one in the centre.

    A clip that is not longer than the crop gives exactly one row, the clip repeated until it fills it: its other
    crops would be copies.
    """
    _check(samples_T, num_samples)
    if num_crops < 1:
        raise ValueError(f"num_crops is at least 1, got {num_crops}")
    spare = len(samples_T) - num_samples
    if spare <= 0:
        repeats = -(-num_samples // len(samples_T))
        return np.tile(samples_T, repeats)[None, :num_samples]
    starts = [spare // 2] if num_crops == 1 else [spare * k // (num_crops - 1) for k in range(num_crops)]
    return np.stack([samples_T[start : start + num_samples] for start in starts])


def centre_crop(samples_T: np.ndarray, num_samples: int) -> np.ndarray:
    """The middle of the clip; a shorter clip stands in the middle of zeros."""
    _check(samples_T, num_samples)
    spare = len(samples_T) - num_samples
    if spare >= 0:
        return samples_T[spare // 2 : spare // 2 + num_samples].copy()
    before = (-spare) // 2
    return np.pad(samples_T, (before, -spare - before))


def _draw(num_choices: int, *, seed: int, epoch: int, clip_id: str) -> int:
    """An integer in [0, num_choices), uniform to within num_choices / 2**64."""
    key = f"{seed}/{epoch}/{clip_id}".encode("utf-8", "surrogatepass")
    value = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
    return value * num_choices >> 64


def _check(samples_T: np.ndarray, num_samples: int) -> None:
    if samples_T.ndim != 1 or not len(samples_T):
        raise ValueError(f"a clip is one row of samples (T,), got shape {samples_T.shape}")
    if num_samples < 1:
        raise ValueError(f"a crop has at least 1 sample, got {num_samples}")
