"""Matching against a naive numpy product with a threshold and against faiss range_search, in one run.

    python benchmarks/matching.py [--clips 8192] [--captions 20000] [--width 1024] [--threads 2] [--json FILE]

The embeddings are a mixture like a teacher's: clips and captions around shared topics, each modality with its own
offset, and `--isotropy 1` is the worst case (no structure at all). The three alternate, and each row is the median.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measures, prints one line per row, and returns the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=8192)
    parser.add_argument("--captions", type=int, default=20000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--threshold", type=float, default=0.75)
    parser.add_argument("--isotropy", type=float, default=0.35, help="share of each row that belongs to no topic")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", help="also write the rows there")
    options = parser.parse_args(argv)
    # read once, when the libraries are loaded. PASSIVE, for all alike: threads of OpenMP that spin while they wait cost
    # ten times the work when other processes want the cores too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    rows = measure(options)
    for row in rows:
        print(f"{row['name']:<34} {row['seconds']:8.3f} s   {row['ratio']:5.2f}x naive   {row['pairs']} pairs")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)
    return rows


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per way to match: median seconds, ratio to the naive product, pairs found."""
    import faiss
    import numpy as np
    import torch

    from raysem.curation.matching import best_precision, match_above

    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    audio_AD, text_CD = embeddings(options.clips, options.captions, options.width, options.isotropy)
    index = faiss.IndexFlatIP(options.width)
    index.add(text_CD)
    threshold = np.float32(options.threshold)

    def naive() -> int:
        return len(np.nonzero(audio_AD @ text_CD.T >= threshold)[0])

    def faiss_range_search() -> int:
        return int(index.range_search(audio_AD, float(threshold))[0][-1])

    ways: dict[str, Callable[[], int]] = {
        "naive numpy product, whole": naive,
        "faiss IndexFlatIP.range_search": faiss_range_search,
        f"match_above ({best_precision('cpu')})": lambda: len(match_above(audio_AD, text_CD, options.threshold)[0]),
        "match_above, bf16 tiles": lambda: len(match_above(audio_AD, text_CD, options.threshold, precision="bf16")[0]),
        "match_above, fp32 tiles": lambda: len(match_above(audio_AD, text_CD, options.threshold, precision="fp32")[0]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    pairs: dict[str, int] = {}
    for _ in range(options.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            pairs[name] = way()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    base = medians["naive numpy product, whole"]
    share = f"isotropy {options.isotropy}, {options.threads} threads"
    setting = f"{options.clips} x {options.captions}, D={options.width}, {share}"
    return [
        {
            "benchmark": "matching",
            "setting": setting,
            "name": name,
            "seconds": took,
            "ratio": base / took,
            "pairs": pairs[name],
        }
        for name, took in medians.items()
    ]


def embeddings(num_clips: int, num_captions: int, width: int, isotropy: float, seed: int = 0) -> tuple[Any, Any]:
    """Unit rows around 300 topics that lie in a fading spectrum, with an offset per modality."""
    import numpy as np

    random = np.random.default_rng(seed)
    topics = random.standard_normal((300, width), dtype=np.float32)
    fading = np.exp(-np.arange(width, dtype=np.float32) / (width / 8))
    rotation = np.linalg.qr(random.standard_normal((width, width)).astype(np.float32))[0]
    topics = (topics * fading) @ rotation
    topics /= np.linalg.norm(topics, axis=1, keepdims=True)
    offsets = random.standard_normal((2, width)).astype(np.float32) / np.sqrt(width, dtype=np.float32) * np.float32(0.3)
    made = []
    for rows, offset in zip((num_clips, num_captions), offsets, strict=True):
        noise = random.standard_normal((rows, width), dtype=np.float32) / np.sqrt(width, dtype=np.float32)
        loudness = random.uniform(0.4, 1.6, (rows, 1)).astype(np.float32)
        topical = topics[random.integers(len(topics), size=rows)] * loudness + offset
        mixed = (1 - isotropy) * topical + isotropy * noise
        made.append(mixed / np.linalg.norm(mixed, axis=1, keepdims=True))
    return made[0], made[1]


if __name__ == "__main__":
    main(sys.argv[1:])
