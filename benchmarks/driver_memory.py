"""Peak memory of the driver while it plans and embeds N clips and 10 N clips: flat, if no row passes through it.

    python -m benchmarks.driver_memory [--clips 300] [--quick] [--json FILE]

Each pool is embedded by a process of its own, through `embed_clips` on a local Ray, with a trivial model and clips of
0.2 s; the pools are written before. Resident memory is that of the driver alone, with its libraries and what it maps of
the object store; `after start` is its peak before the first clip.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import Row, cores, finish, parser_of

CLIPS_PER_SHARD = 25
SAMPLE_RATE = 8000
DRIVER_SECONDS = 600


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures, prints one line per pool, and returns the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--clips", type=int, help="clips of the smaller pool (default: 300)")
    parser.add_argument("--cpus", type=int, default=cores(), help="CPUs of the local Ray (default: the cores)")
    parser.add_argument("--drive", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.drive:
        drive(Path(options.drive), options.cpus)
        return []
    options.clips = options.clips or (25 if options.quick else 300)
    return finish(measure(options), options)


def measure(options: argparse.Namespace) -> list[Row]:
    """One row per pool: the driver's peak, what was added since its start, and the ratio to the smaller pool's peak."""
    from benchmarks.material import trivial_model, write_pool
    from raysem.models.checkpoint import save_model
    from raysem.models.start import build_clap

    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="raysem-benchmark-") as folder:
        settings = trivial_model(Path(folder) / "text")
        save_model(str(Path(folder) / "model"), build_clap(settings, seed=0))
        for num_clips in (options.clips, 10 * options.clips):
            pool = Path(folder) / f"pool_{num_clips}"
            write_pool(
                pool / "clips",
                num_clips,
                clips_per_shard=CLIPS_PER_SHARD,
                format="wav16",
                seconds=0.2,
                sample_rate=SAMPLE_RATE,
            )
            (pool / "model").symlink_to(Path(folder) / "model")
            command = [sys.executable, "-m", "benchmarks.driver_memory", "--drive", str(pool)]
            subprocess.run(
                [*command, "--cpus", str(options.cpus)],
                check=True,
                timeout=DRIVER_SECONDS,
                cwd=Path(__file__).resolve().parent.parent,
            )
            measured = json.loads((pool / "measured.json").read_text())
            if measured["rows"] != num_clips:
                raise RuntimeError(f"{num_clips} clips went in, {measured['rows']} were embedded")
            first = rows[0]["peak_mib"] if rows else measured["peak_mib"]
            rows.append(
                {
                    "benchmark": "driver_memory",
                    "setting": f"clips of 0.2 s in shards of {CLIPS_PER_SHARD}; ratio: peak over that of the first",
                    "name": f"{num_clips} clips",
                    "ratio": measured["peak_mib"] / first,
                    "peak_mib": measured["peak_mib"],
                    "peak_after_start_mib": measured["peak_after_start_mib"],
                    "difference_mib": measured["peak_mib"] - first,
                }
            )
    return rows


def drive(pool: Path, cpus: int) -> None:
    """Embed a pool, and write this process's peaks to `measured.json`."""
    from benchmarks.local_ray import local_ray
    from raysem.audio.load import AudioSettings
    from raysem.curation.ray_stages import EmbedJob, EmbedSettings, WorkerSettings, embed_clips
    from raysem.models.teacher import TeacherSource

    job = EmbedJob(
        model=TeacherSource(location=str(pool / "model")),
        output=str(pool / "embeddings"),
        workers=WorkerSettings(),
        audio=AudioSettings(sample_rate=SAMPLE_RATE),
        crop_samples=round(0.2 * SAMPLE_RATE),
        embed=EmbedSettings(),
    )
    with local_ray(cpus):
        after_start = peak_mib()
        counts = embed_clips(sorted(str(path) for path in (pool / "clips").glob("*.parquet")), job)
        measured = {"rows": counts["rows"], "peak_after_start_mib": after_start, "peak_mib": peak_mib()}
    (pool / "measured.json").write_text(json.dumps(measured))


def peak_mib() -> float:
    """The largest resident memory this process has had."""
    try:
        # of this program alone; getrusage would count what the process was before it became this program
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    main(sys.argv[1:])
