"""The child process of `guarded_decode`: reads clips from standard input, answers with samples or with an outcome.

Each message is a line of JSON, a clip's bytes or the samples (float32) behind it. Run with
`python -m raysem.audio.decoder_process`; it ends when its input does.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
from contextlib import suppress
from typing import IO, Any

import numpy as np
import psutil
import torch

from raysem.audio.decode_time import ends_after
from raysem.audio.guarded_decode import read_exactly
from raysem.audio.load import AudioSettings, load_clip
from raysem.errors import ClipError, StorageError

MIB = 2**20
SPARE_MIB = 1024
DECODED_TIMES = 8
"""Address space over the largest decoded clip: channels, their mean, resampling and the copies between them."""


def main() -> None:
    """Answer requests until there are no more."""
    faulthandler.enable()
    torch.set_num_threads(1)  # as the decoding task, so that the samples are the same
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a codec prints is no answer
    about = json.loads(requests.readline())
    settings, max_seconds = AudioSettings(**about["settings"]), about["max_seconds"]
    before = psutil.Process().memory_info().vms
    _send(answers, {"ready": True})
    while line := requests.readline():
        request = json.loads(line)
        audio_bytes = None if request["size"] is None else read_exactly(requests, request["size"])
        allowed_mib = DECODED_TIMES * settings.limits.max_decoded_mib + SPARE_MIB + 2 * (request["size"] or 0) / MIB
        _bound_memory(before + int(allowed_mib * MIB))
        with ends_after(max_seconds):
            answer, samples_T = _load(audio_bytes, request, settings, allowed_mib)
        _send(answers, answer, samples_T)


def _load(
    audio_bytes: bytes | None, request: dict[str, Any], settings: AudioSettings, allowed_mib: float
) -> tuple[dict[str, Any], np.ndarray]:
    nothing = np.zeros(0, np.float32)
    try:
        samples_T = load_clip(
            audio_bytes,
            request["path"],
            start_seconds=request["start_seconds"],
            duration_seconds=request["duration_seconds"],
            settings=settings,
        )
        return {"samples": len(samples_T)}, samples_T
    except ClipError as error:
        return {"outcome": error.outcome, "reason": error.reason}, nothing
    except StorageError as error:
        return {"trouble": str(error)}, nothing
    except MemoryError:
        return {"outcome": "crashed_decoder", "reason": f"needs more than {allowed_mib:.0f} MiB to be decoded"}, nothing


def _bound_memory(address_space: int) -> None:
    """Not every system has this bound; a lower one that was set before stays."""
    with suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or hard > address_space:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, hard))


def _send(answers: IO[bytes], answer: dict[str, Any], samples_T: np.ndarray | None = None) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    if samples_T is not None:
        answers.write(np.ascontiguousarray(samples_T, np.float32).tobytes())
    answers.flush()


if __name__ == "__main__":
    main()
