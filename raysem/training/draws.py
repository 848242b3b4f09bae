"""Random draws that are pure functions of their keys, so that no state has to be kept for a resume."""

from __future__ import annotations

import hashlib

import numpy as np

_MASK = (1 << 64) - 1


def draw_seed(*keys: int | str) -> int:
    """A 63-bit seed from any keys: the same on every machine and in every process."""
    text = "\x1f".join(f"{type(key).__name__[0]}{key}" for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def draw_index(num_choices: int, *keys: int | str) -> int:
    """One of range(num_choices), each as likely."""
    return draw_seed(*keys) % num_choices


def uniform_draws(seed: int, indices: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each index (splitmix64 of seed and index), float64."""
    with np.errstate(over="ignore"):
        state = np.asarray(indices, dtype=np.uint64) + np.uint64(1)
        state = state * np.uint64(0x9E3779B97F4A7C15) + np.uint64(draw_seed("uniform", seed) & _MASK)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) / float(1 << 53)
