from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from raysem.audio.decode import DecodeLimits
from raysem.audio.load import AudioSettings, load_clip
from raysem.errors import ClipError

SETTINGS = AudioSettings(sample_rate=16_000)


def _wav(samples_TC: np.ndarray, sample_rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples_TC, sample_rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def _outcome(audio_bytes: bytes | None, path: str | None = None, settings: AudioSettings = SETTINGS) -> str:
    with pytest.raises(ClipError) as caught:
        load_clip(audio_bytes, path, settings=settings)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    return caught.value.outcome


def test_channels_are_averaged() -> None:
    left_T = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)
    channels_TC = np.stack([left_T, 3 * left_T, 0 * left_T, left_T, left_T, 0 * left_T], axis=1)
    np.testing.assert_allclose(load_clip(_wav(channels_TC), None, settings=SETTINGS), left_T, atol=1e-6)


def test_the_clip_comes_at_the_asked_rate_as_float32(audio_files: dict[str, Path]) -> None:
    for path in audio_files.values():
        samples_T = load_clip(None, str(path), settings=SETTINGS)
        assert samples_T.dtype == np.float32
        assert samples_T.ndim == 1
        assert abs(len(samples_T) - 16_000) < 800


def test_bytes_win_over_the_path_beside_them(audio_files: dict[str, Path]) -> None:
    samples_T = load_clip(audio_files["wav16.wav"].read_bytes(), "name-in-the-archive.wav", settings=SETTINGS)
    assert len(samples_T) == 16_000


def test_a_segment_is_loaded(make_clip: Callable[..., bytes]) -> None:
    samples_T = load_clip(
        make_clip("opus.ogg", 3.0), None, start_seconds=1.0, duration_seconds=0.5, settings=AudioSettings()
    )
    assert len(samples_T) == 22_050


def test_each_unusable_clip_has_its_outcome(tmp_path: Path) -> None:
    tone_T = 0.5 * np.sin(np.arange(8000, dtype=np.float32))
    with_nan_T, with_infinity_T, huge_T = tone_T.copy(), tone_T.copy(), tone_T.copy()
    with_nan_T[100], with_infinity_T[-1], huge_T[5] = np.nan, -np.inf, 1e30
    assert _outcome(None, None) == "missing"
    assert _outcome(None, "") == "missing"
    assert _outcome(None, str(tmp_path / "absent.wav")) == "missing"
    assert _outcome(b"") == "empty"
    assert _outcome(b"junk" * 100) == "undecodable"
    assert _outcome(_wav(tone_T)[:-8000]) == "truncated"
    assert _outcome(_wav(tone_T[:1500])) == "too_short"
    assert _outcome(_wav(tone_T), settings=AudioSettings(limits=DecodeLimits(max_duration_seconds=0.4))) == "too_long"
    assert _outcome(_wav(np.zeros(8000, dtype=np.float32))) == "silent"
    assert _outcome(_wav(1e-5 * tone_T)) == "silent"
    assert _outcome(_wav(np.stack([tone_T, -tone_T], axis=1))) == "silent"
    assert _outcome(_wav(with_nan_T)) == "non_finite"
    assert _outcome(_wav(with_infinity_T)) == "non_finite"
    assert _outcome(_wav(huge_T)) == "non_finite"


def test_the_silence_level_is_the_settings() -> None:
    quiet_T = np.full(8000, 2e-4, dtype=np.float32)  # -74 dBFS
    load_clip(_wav(quiet_T), None, settings=SETTINGS)
    assert _outcome(_wav(quiet_T), settings=AudioSettings(sample_rate=16_000, silence_dbfs=-70)) == "silent"
