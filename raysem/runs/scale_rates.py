"""How fast the stages of a run were measured to be, each rate with its machine and source. A rate not known is absent.

`MEASURED` is what benchmarks/results.json said of the machine of benchmarks/RESULTS.md; `read_rates` reads another file
of that form, or `{"hardware": "...", "rates": {"decode": 50}}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raysem import storage
from raysem.errors import DataError, UserError
from raysem.remote import NOTHING_THERE

Device = Literal["cpu", "gpu"]

RATES = {
    "corpora": "clips/s",
    "decode": "clips/s per CPU core",
    "embed": "clips/s per GPU, or per CPU core without GPUs",
    "captions": "captions/s per GPU, or per CPU core without GPUs",
    "match": "pairs of clip and caption/s per CPU core",
    "neighbours": "pairs of clip and caption/s per CPU core",
    "select": "scored pairs/s per CPU core",
    "train": "clips/s per GPU, or per CPU core without GPUs",
}
"""What can be known, by name, and its unit."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Work done in a second by one core, or one GPU."""

    name: str
    value: float
    hardware: str
    source: str
    device: Device | None = None
    """None: of whatever the plan has."""
    what: str = ""
    """Audio format of `decode`, encoder of `embed` and `train`; empty: of any."""
    clip_seconds: float | None = None
    """Length of the clips; a rate is taken to be that many seconds of audio. None: of the plan's own clips."""
    includes_decode: bool = False

    def for_clips_of(self, seconds: float) -> float:
        """Clips of another length in a second, in proportion."""
        return self.value if self.clip_seconds is None else self.value * self.clip_seconds / seconds


_CPU, _FILE = "AMD EPYC, 2 cores", "benchmarks/results.json"
MEASURED: tuple[Rate, ...] = (
    *(
        Rate(
            name="decode",
            value=value,
            hardware=_CPU,
            source=f"{_FILE} front_end, {what}: decoding with log-mel",
            device="cpu",
            what=what.split()[0],
            clip_seconds=10.0,
        )
        for what, value in (
            ("wav", 59.17542477759515),
            ("flac", 43.41593697758315),
            ("ogg vorbis", 29.758582015521785),
            ("opus", 19.792522605610568),
            ("mp3", 32.29320255881925),
        )
    ),
    Rate(
        name="embed",
        value=43.229224249035724 / 2,
        hardware=_CPU,
        source=f"{_FILE} embedding, Ray stage: decoding and embedding",
        device="cpu",
        what="cnn14_tiny",
        clip_seconds=10.0,
        includes_decode=True,
    ),
    Rate(
        name="match",
        value=8192 * 20_000 / 0.734865168997203 / 2,
        hardware=_CPU,
        source=f"{_FILE} matching, match_above (int8), D = 1024",
        device="cpu",
    ),
    Rate(
        name="train",
        value=5.584005427246548 * 32 / 2,
        hardware=_CPU,
        source=f"{_FILE} training, train_in_process: clips in the cache",
        device="cpu",
        what="cnn14_tiny",
        clip_seconds=4.0,
    ),
)
"""On CPUs alone: nothing was measured on a GPU."""


def find_rate(rates: Iterable[Rate], name: str, *, device: Device = "cpu", what: str = "") -> Rate | None:
    """The first of `rates` that holds for this device and format or encoder; None where none was measured."""
    for rate in rates:
        if rate.name == name and rate.device in (None, device) and rate.what in ("", what):
            return rate
    return None


def given_rate(text: str) -> Rate:
    """`decode=50` as a rate.

    Raises:
        UserError: no such rate, or no number above 0.
    """
    name, _, number = text.partition("=")
    return _given(name.strip(), number, f"--rate {text}", hardware="as given", source="--rate")


def read_rates(location: str) -> list[Rate]:
    """The rates in a file: `benchmarks/run.py` wrote it, or it has `hardware` and `rates`.

    Raises:
        UserError: no such file, or it has neither form, or a rate in it is unknown or not above 0.
    """
    where = f"--rates {location}"
    try:
        content = storage.read_json(location)
    except (*NOTHING_THERE, DataError):
        raise UserError(f"{where}: no such file") from None
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if isinstance(content, dict) and isinstance(content.get("rates"), dict):
        hardware = str(content.get("hardware", "not said"))
        return [_given(name, value, where, hardware, location) for name, value in content["rates"].items()]
    try:
        found = list(rates_of_results(content, location))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: neither rates nor results of benchmarks/run.py ({error!r})") from None
    if content["quick"]:
        raise UserError(f"{where}: of a quick run, which measures nothing; run benchmarks/run.py without --quick")
    return found


def rates_of_results(content: Mapping[str, Any], source: str) -> Iterator[Rate]:
    """What the rows of `benchmarks/run.py` say. Of `embedding` on a GPU nothing is taken: it has no rate of its own."""
    machine = content["machine"]
    cpu = f"{machine['cpu']}, {machine['cores']} cores"
    for entry in content["benchmarks"].values():
        for row in entry["rows"]:
            setting, name = row["setting"], row["name"]
            match row["benchmark"], name:
                case "front_end", _:
                    threads, seconds = _number(r", (\d+) threads", setting), _number(r"clips of ([\d.]+) s", setting)
                    about = f"{source} front_end, {name}: decoding with log-mel"
                    yield Rate(
                        name="decode", value=row["clips_per_second"] / threads, hardware=cpu, source=about,
                        device="cpu", what=name.split()[0], clip_seconds=seconds,
                    )  # fmt: skip
                case "embedding", "Ray stage":
                    about = f"{source} embedding, Ray stage: decoding and embedding"
                    yield Rate(
                        name="embed", value=row["clips_per_second"] / _number(r"Ray with (\d+) CPUs", setting),
                        hardware=cpu, source=about, device="cpu", what=_word(r"of \d+, (\w+), Ray", setting),
                        clip_seconds=_number(r"clips of ([\d.]+) s", setting), includes_decode=True,
                    )  # fmt: skip
                case "matching", "match_above (int8)":
                    pairs = _number(r"^(\d+) x", setting) * _number(r" x (\d+)", setting)
                    about = f"{source} matching, {name}, D = {_number(r'D=([0-9]+)', setting):g}"
                    value = pairs / row["seconds"] / _number(r"(\d+) threads", setting)
                    yield Rate(name="match", value=value, hardware=cpu, source=about, device="cpu")
                case "training", "train_in_process":
                    clips = _number(r", (\d+) clips of", setting) / _number(r"(\d+) threads", setting)
                    yield Rate(
                        name="train", value=row["steps_per_second"] * clips, hardware=cpu,
                        source=f"{source} training, {name}: clips in the cache", device="cpu",
                        what=_word(r"^(\w+),", setting), clip_seconds=_number(r"clips of ([\d.]+) s", setting),
                    )  # fmt: skip
                case "encoders", _ if "peak_memory_gib" in row:
                    about = f"{source} encoders, {name}: forward and backward alone, nothing read"
                    yield Rate(
                        name="train", value=row["clips_per_second"], hardware=_word(r" on (.+)$", setting),
                        source=about, device="gpu", what=name,
                    )  # fmt: skip


def _given(name: str, number: object, where: str, hardware: str, source: str) -> Rate:
    if name not in RATES:
        raise UserError(f"{where}: no rate {name!r}; there are {', '.join(RATES)}")
    try:
        value = float(number)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(number, bool) or not (math.isfinite(value) and value > 0):
        raise UserError(f"{where}: {name} is a number above 0, in {RATES[name]}; got {number!r}")
    return Rate(name=name, value=value, hardware=hardware, source=source)


def _word(pattern: str, setting: str) -> str:
    found = re.search(pattern, setting)
    if found is None:
        raise ValueError(f"setting {setting!r}: no {pattern}")
    return found[1]


def _number(pattern: str, setting: str) -> float:
    return float(_word(pattern, setting))
