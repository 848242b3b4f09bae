"""Our decoding against the bare libraries, on real clips."""

from __future__ import annotations

import os
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from raysem.audio.decode import decode
from raysem.audio.load import AudioSettings, load_clip

DATA = Path(os.environ.get("RAYSEM_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "esc50"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real clips at {DATA}; set RAYSEM_SHARED_DATA")


def _clips(folder: str, count: int) -> list[Path]:
    files = sorted((DATA / folder).iterdir())
    return files[:: max(1, len(files) // count)][:count]


@pytest.mark.parametrize("folder", ["audio", "wav"])
def test_real_clips_equal_what_libsndfile_reads(folder: str) -> None:
    for path in _clips(folder, 12):
        expected_TC, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = decode(path.read_bytes())
        assert waveform.sample_rate == sample_rate
        np.testing.assert_allclose(waveform.samples_CT, expected_TC.T, atol=2e-6)


def test_a_file_that_libsndfile_rejects_is_read_whole() -> None:
    path = DATA / "odd" / "libsndfile-rejects_1-104089-A-22.ogg"
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(path)
    assert decode(str(path)).samples_CT.shape == (1, 240_000)


def test_a_file_that_libsndfile_cuts_short_is_read_whole() -> None:
    path = DATA / "odd" / "libsndfile-short-239512_1-115921-A-22.ogg"
    short_T = soundfile.read(path, dtype="float32")[0]
    samples_T = decode(str(path)).samples_CT[0]
    assert (len(short_T), len(samples_T)) == (239_512, 240_000)
    np.testing.assert_allclose(samples_T[: len(short_T)], short_T, atol=2e-6)


def test_segments_of_the_odd_files_are_slices_of_the_whole() -> None:
    for path in sorted((DATA / "odd").iterdir()):
        whole = decode(str(path))
        part = decode(str(path), start_seconds=4.5, duration_seconds=2.0)
        np.testing.assert_array_equal(part.samples_CT, whole.samples_CT[:, 216_000:])


def test_loading_agrees_with_librosas_resampling_below_its_filters_edge() -> None:
    for path in _clips("audio", 4):
        found_T = load_clip(path.read_bytes(), None, settings=AudioSettings(sample_rate=44_100))
        samples_T = soundfile.read(path, dtype="float32")[0]
        expected_T = librosa.resample(samples_T, orig_sr=48_000, target_sr=44_100, res_type="soxr_hq")
        assert len(found_T) == len(expected_T) == 220_500
        spectra = [np.abs(np.fft.rfft(signal_T)) ** 2 for signal_T in (found_T - expected_T, expected_T)]
        below = int(15_000 / 44_100 * len(found_T))  # the short sinc rolls off earlier than soxr
        assert spectra[0][:below].sum() < 1e-3 * spectra[1][:below].sum()
