"""Random draws for one clip, fixed by what they are for and (seed, epoch, clip_id): no worker plays a part in them."""

from __future__ import annotations

import hashlib

import numpy as np


def clip_generator(purpose: str, *, seed: int, epoch: int, clip_id: str) -> np.random.Generator:
    """A generator of its own for each purpose, so that a draw more or less for one leaves the others as they are."""
    key = f"{purpose}/{seed}/{epoch}/{clip_id}".encode("utf-8", "surrogatepass")
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "big"))
