from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import soundfile

from raysem.reports import players
from raysem.reports.players import PlayerSettings, encode_player


def tone(seconds, sample_rate, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * sample_rate)) / sample_rate)).astype(np.float32)


def decoded(player):
    head, payload = player.uri.split(",", 1)
    samples, sample_rate = soundfile.read(io.BytesIO(base64.b64decode(payload)))
    return head, samples, sample_rate


def peak_hz(samples, sample_rate):
    return np.abs(np.fft.rfft(samples)).argmax() * sample_rate / len(samples)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 44100, 48000])
def test_a_player_plays_the_first_seconds_of_what_went_in(sample_rate):
    player = encode_player(tone(8, sample_rate), sample_rate, PlayerSettings())
    head, samples, found_rate = decoded(player)
    assert head == "data:audio/mpeg;base64"
    assert found_rate == min(sample_rate, 22050)
    assert player.duration_seconds == pytest.approx(5, abs=0.01)
    assert len(samples) / found_rate == pytest.approx(5, abs=0.2)
    assert peak_hz(samples, found_rate) == pytest.approx(440, abs=3)


def test_a_rate_that_one_codec_lacks_is_taken_by_the_next(monkeypatch):
    assert decoded(encode_player(tone(1, 9000), 9000, PlayerSettings()))[0] == "data:audio/ogg;base64"
    monkeypatch.setattr(players, "_ENCODINGS", players._ENCODINGS[2:])
    head, samples, found_rate = decoded(encode_player(tone(1, 9000), 9000, PlayerSettings()))
    assert (head, found_rate) == ("data:audio/wav;base64", 9000)
    np.testing.assert_allclose(samples, tone(1, 9000), atol=1e-4)


def test_peaks_follow_the_level_and_a_silent_clip_has_flat_ones():
    loud_end = np.concatenate([0.1 * tone(1, 16000), tone(1, 16000)])
    peaks = encode_player(loud_end, 16000, PlayerSettings()).peaks
    assert max(peaks) == 1
    assert peaks[0] == pytest.approx(0.1, abs=0.02)
    assert set(encode_player(np.zeros(1600, np.float32), 16000, PlayerSettings()).peaks) == {0}


def test_only_what_would_clip_is_made_softer(monkeypatch):
    monkeypatch.setattr(players, "_ENCODINGS", players._ENCODINGS[2:])
    soft = decoded(encode_player(0.1 * tone(0.5, 16000), 16000, PlayerSettings()))[1]
    loud = decoded(encode_player(6 * tone(0.5, 16000), 16000, PlayerSettings()))[1]
    assert np.abs(soft).max() == pytest.approx(0.05, abs=1e-3)
    assert np.abs(loud).max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros((2, 100)), np.array([0.0, np.nan])])
def test_what_cannot_be_played_is_refused(samples):
    with pytest.raises(ValueError, match="finite mono samples"):
        encode_player(samples, 16000, PlayerSettings())
