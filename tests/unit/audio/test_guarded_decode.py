"""Clips that kill or hold up the process that decodes them, each in a real child process that dies."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from raysem.audio.guarded_decode import TRIES, GuardedDecoder
from raysem.audio.load import AudioSettings, load_clip
from raysem.errors import ClipError, StageError, StorageError

SETTINGS = AudioSettings(sample_rate=8000)
FAULTY_SOUNDS = Path(__file__).parents[2] / "ray" / "faulty_sounds"


def wav(seconds: float, sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    samples_TC = 0.1 * np.random.default_rng(3).standard_normal((round(seconds * sample_rate), 2))
    soundfile.write(buffer, samples_TC, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


@pytest.fixture
def _faulty_sounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child looks where this process looks."""
    monkeypatch.setattr(sys, "path", [str(FAULTY_SOUNDS), *sys.path])


@pytest.fixture(scope="module")
def decoder() -> Iterator[GuardedDecoder]:
    with GuardedDecoder(SETTINGS, max_seconds=60) as decoder:
        yield decoder


def test_samples_are_those_of_this_process_to_the_bit(decoder: GuardedDecoder, tmp_path: Path):
    torch.set_num_threads(1)
    content = wav(3.0, 44_100)
    (tmp_path / "a.wav").write_bytes(content)
    segment = {"start_seconds": 0.5, "duration_seconds": 1.25}
    for audio in ((content, None), (None, str(tmp_path / "a.wav")), (content, "ignored.wav")):
        expected_T = load_clip(*audio, **segment, settings=SETTINGS)
        found_T = decoder.load_clip(*audio, **segment)
        assert found_T.dtype == np.float32
        assert np.array_equal(found_T, expected_T)
    assert np.array_equal(decoder.load_clip(content, None), load_clip(content, None, settings=SETTINGS))


@pytest.mark.parametrize("content", [b"", b"RIFF and no more", wav(0.05, 8000), wav(1.0, 8000)[:3000], None])
def test_outcomes_and_reasons_are_those_of_this_process(decoder: GuardedDecoder, content: bytes | None):
    path = None if content is not None else "/no/such/file.wav"
    with pytest.raises(ClipError) as expected:
        load_clip(content, path, settings=SETTINGS)
    with pytest.raises(ClipError) as found:
        decoder.load_clip(content, path)
    assert found.value.args == expected.value.args


def test_a_store_that_fails_is_no_outcome_of_the_clip(decoder: GuardedDecoder):
    with pytest.raises(StorageError, match="nosuchscheme://a: no filesystem for this scheme"):
        decoder.load_clip(None, "nosuchscheme://a")


@pytest.mark.usefixtures("_faulty_sounds")
@pytest.mark.parametrize(("how", "signal"), [("abort", "SIGABRT"), ("segfault", "SIGSEGV")])
def test_a_clip_that_kills_its_process_is_written_off_and_the_next_one_is_loaded(how: str, signal: str):
    content = wav(0.5, 8000)
    with GuardedDecoder(SETTINGS, max_seconds=60) as decoder:
        with pytest.raises(ClipError) as caught:
            decoder.load_clip(None, f"faulty://{how}/a.wav")
        assert caught.value.outcome == "crashed_decoder"
        expected = f"faulty://{how}/a.wav: ended the process that decodes it with {signal}, {TRIES} times"
        assert caught.value.reason == expected
        assert np.array_equal(decoder.load_clip(content, None), load_clip(content, None, settings=SETTINGS))


@pytest.mark.usefixtures("_faulty_sounds")
def test_a_crash_that_does_not_come_again_costs_no_clip(tmp_path: Path):
    content = wav(0.5, 8000)
    (tmp_path / "a.wav").write_bytes(content)
    with GuardedDecoder(SETTINGS, max_seconds=60) as decoder:
        found_T = decoder.load_clip(None, f"faulty://once{tmp_path}/a.wav")
    assert (tmp_path / "a.crashed").exists()
    assert np.array_equal(found_T, load_clip(content, None, settings=SETTINGS))


@pytest.mark.usefixtures("_faulty_sounds")
def test_a_clip_without_end_is_given_up_after_its_time():
    with GuardedDecoder(SETTINGS, max_seconds=2) as decoder, pytest.raises(ClipError) as caught:
        decoder.load_clip(None, "faulty://hang/a.wav")
    assert caught.value.args == ("crashed_decoder", "faulty://hang/a.wav: took longer than 2 s to decode")


@pytest.mark.usefixtures("_faulty_sounds")
def test_a_store_that_is_slow_costs_no_clip(tmp_path: Path):
    content = wav(0.5, 8000)
    (tmp_path / "a.wav").write_bytes(content)
    with GuardedDecoder(SETTINGS, max_seconds=2) as decoder:
        found_T = decoder.load_clip(None, f"faulty://slow{tmp_path}/a.wav")
    assert np.array_equal(found_T, load_clip(content, None, settings=SETTINGS))


def test_a_process_that_cannot_start_is_the_fault_of_no_clip(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with GuardedDecoder(SETTINGS, max_seconds=2) as decoder, pytest.raises(StageError, match="status 1 when it start"):
        decoder.load_clip(wav(0.5, 8000), None)


HUNGRY = """
import numpy as np
from raysem.audio import decoder_process

def hungry(*audio, **about):
    return np.ones(2**30, np.float32)  # 4 GiB where 2 are allowed

decoder_process.load_clip = hungry
decoder_process.SPARE_MIB, decoder_process.DECODED_TIMES = 2048, 0
decoder_process.main()
"""


def test_a_clip_that_takes_more_memory_than_its_limits_allow_is_written_off(tmp_path: Path):
    hello = b'{"settings": {}, "max_seconds": 60}\n'
    request = b'{"path": "a.wav", "start_seconds": null, "duration_seconds": null, "size": null}\n'
    done = subprocess.run([sys.executable, "-c", HUNGRY], input=hello + request, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.splitlines()[1:] == [
        b'{"outcome": "crashed_decoder", "reason": "needs more than 2048 MiB to be decoded"}'
    ]


WATCHED = """
import sys, time
from raysem.audio.decode_time import ends_after, not_counted
with ends_after(float(sys.argv[1])) as anew:
    for _ in range(int(sys.argv[2])):
        with not_counted():
            time.sleep(float(sys.argv[4]))
        time.sleep(float(sys.argv[3]))
        if sys.argv[5] == "anew":
            anew()
time.sleep(1.5)
print("came to its end")
"""


@pytest.mark.parametrize(
    ("seconds", "pieces", "each", "waited", "anew", "status"),
    [
        (1, 1, 600, 0, "", 1),
        (2, 10, 0.4, 0, "anew", 0),
        (1, 0, 0, 0, "", 0),
        (2, 2, 0.1, 2.5, "", 0),  # waiting is not counted
        (1, 10, 0.3, 0.1, "", 1),  # but ends no time either: what was used before stays used
        (1, 1, 600, 1.5, "", 1),
    ],
)
def test_only_a_block_that_takes_too_long_at_once_ends_its_process(
    seconds: float, pieces: int, each: float, waited: float, anew: str, status: int
):
    command = [sys.executable, "-c", WATCHED, str(seconds), str(pieces), str(each), str(waited), anew]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status
    assert ("came to its end" in done.stdout) == (status == 0)
    assert ("Timeout" in done.stderr) == (status == 1)
