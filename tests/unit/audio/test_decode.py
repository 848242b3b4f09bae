from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from raysem.audio import decode as decode_module
from raysem.audio.containers import inspect_container
from raysem.audio.decode import DecodeLimits, decode
from raysem.audio.pyav_decoder import decode_with_pyav
from raysem.audio.soundfile_decoder import decode_with_soundfile
from raysem.audio.sources import open_source
from raysem.audio.waveform import Segment
from raysem.errors import ClipError

# Shapes: C channels, T samples.
LOSSLESS = {"wav8.wav": 8, "wav16.wav": 16, "wav24.wav": 24, "wav32.wav": 32, "float.wav": 24, "double.wav": 24}
LOSSLESS |= {"flac.flac": 24}
ALL = [*LOSSLESS, "vorbis.ogg", "mp3.mp3", "ffmpeg.mp3", "opus.ogg", "aac.m4a", "aac.mp4", "adts.aac", "opus.webm"]
# Lossy codecs bring a delay in frames; adts has no place to write it down.
DELAYED = {"adts.aac"}


def _outcome(audio: bytes | str, **arguments: object) -> str:
    with pytest.raises(ClipError) as caught:
        decode(audio, **arguments)  # type: ignore[arg-type]
    return caught.value.outcome


def _best_lag(found_T: np.ndarray, expected_T: np.ndarray, reach: int = 3000) -> int:
    """The shift in samples at which two signals agree best."""
    size = len(expected_T) + len(found_T)
    product = np.fft.irfft(np.fft.rfft(found_T, size) * np.conj(np.fft.rfft(expected_T, size)), size)
    lags = np.r_[np.arange(reach), np.arange(-reach, 0)]
    return int(lags[np.argmax(product[lags])])


@pytest.mark.parametrize(
    ("name", "channels"),
    [(name, channels) for name in ALL for channels in (1, 2, 6) if channels < 6 or "mp3" not in name],
)
def test_every_format_gives_its_channels_at_its_place(
    name: str, channels: int, make_clip: Callable[..., bytes], make_chirp: Callable[..., np.ndarray]
) -> None:
    waveform = decode(make_clip(name, 1.0, channels))
    expected_CT = make_chirp(1.0, waveform.sample_rate, channels)
    assert waveform.samples_CT.dtype == np.float32
    assert waveform.samples_CT.shape[0] == channels
    if name in LOSSLESS:
        np.testing.assert_allclose(waveform.samples_CT, expected_CT, atol=2.0 ** -(LOSSLESS[name] - 1) + 1e-7)
        return
    if name not in DELAYED:
        assert abs(waveform.samples_CT.shape[1] - expected_CT.shape[1]) <= 2
        assert abs(_best_lag(waveform.samples_CT[0], expected_CT[0])) <= 2
    if channels < 6:  # 5.1 has a low-frequency channel, and each codec an order of its own
        rms = np.sqrt(np.square(waveform.samples_CT).mean(axis=1))
        np.testing.assert_allclose(rms, np.sqrt(np.square(expected_CT).mean(axis=1)), rtol=0.1)


@pytest.mark.parametrize("sample_rate", [8000, 11_025, 22_050, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("name", ["wav16.wav", "flac.flac", "vorbis.ogg"])
def test_sample_rates_from_8_to_192_khz_come_back_as_written(
    name: str, sample_rate: int, make_clip: Callable[..., bytes]
) -> None:
    waveform = decode(make_clip(name, 0.5, 1, sample_rate))
    assert (waveform.sample_rate, waveform.samples_CT.shape[1]) == (sample_rate, sample_rate // 2)


def test_the_decoders_rate_is_trusted_and_not_the_formats_usual_one(make_clip: Callable[..., bytes]) -> None:
    assert decode(make_clip("opus.ogg", 1.0, 1, 16_000)).sample_rate in (16_000, 48_000)
    assert decode(make_clip("aac.m4a", 1.0, 1, 22_050)).sample_rate == 22_050
    assert decode(make_clip("mp3.mp3", 1.0, 1, 16_000)).sample_rate == 16_000


@pytest.mark.parametrize("name", ALL)
def test_bytes_and_path_give_the_same_samples(name: str, audio_files: dict[str, Path]) -> None:
    from_path, from_bytes = decode(str(audio_files[name])), decode(audio_files[name].read_bytes())
    np.testing.assert_array_equal(from_path.samples_CT, from_bytes.samples_CT)


@pytest.mark.parametrize(
    ("name", "decoder"),
    # libsndfile does not seek exactly in ogg and mp3: their segments are PyAV's
    [(name, decode_with_pyav) for name in ALL] + [(name, decode_with_soundfile) for name in LOSSLESS],
)
@pytest.mark.parametrize(("start", "duration"), [(0.3, 0.25), (1.2345, 0.5), (12.34567, 1.0), (19.5, 10.0)])
def test_a_segment_is_the_slice_of_the_whole(
    name: str, decoder: decode_module.Decoder, start: float, duration: float, make_clip: Callable[..., bytes]
) -> None:
    with open_source(make_clip(name, 20.0)) as source:
        container = inspect_container(source.handle)
        whole = decoder(source, container, Segment(), DecodeLimits()).waveform
        segment = decoder(source, container, Segment(start, duration), DecodeLimits()).waveform
    rate = whole.sample_rate
    expected_CT = whole.samples_CT[:, round(start * rate) :][:, : round(duration * rate)]
    assert segment.samples_CT.shape == expected_CT.shape
    np.testing.assert_allclose(segment.samples_CT, expected_CT, atol=2e-4)


def test_a_seek_reads_a_small_part_of_a_long_file(make_clip: Callable[..., bytes]) -> None:
    class Counting(io.BytesIO):
        num_read = 0

        def read(self, size: int | None = -1) -> bytes:
            content = super().read(size)
            self.num_read += len(content)
            return content

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            count = super().readinto(buffer)
            self.num_read += count
            return count

    for name, decoder in [("wav16.wav", decode_with_soundfile), ("aac.m4a", decode_with_pyav)]:
        content = make_clip(name, 120.0)
        handle = Counting(content)
        with open_source(content) as source:
            source = type(source)(source.name, handle)
            container = inspect_container(handle)
            decoder(source, container, Segment(100.0, 1.0), DecodeLimits())
        assert handle.num_read < len(content) / 4, name


def test_pyav_takes_over_when_soundfile_returns_fewer_samples_than_promised(
    make_clip: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*arguments: object) -> decode_module.Decoded:
        decoded = decode_with_soundfile(*arguments)  # type: ignore[arg-type]
        cut = type(decoded.waveform)(decoded.waveform.samples_CT[:, :-100], decoded.waveform.sample_rate)
        return type(decoded)(cut, decoded.promised_samples)

    monkeypatch.setattr(decode_module, "decode_with_soundfile", short)
    assert decode(make_clip("flac.flac")).samples_CT.shape[1] == 44_100


def test_nothing_there_is_missing(tmp_path: Path) -> None:
    assert _outcome(str(tmp_path / "absent.wav")) == "missing"
    assert _outcome(str(tmp_path)) == "missing"
    assert _outcome("a\0b.wav") == "missing"
    assert _outcome("/dev/zero") == "missing"


def test_zero_bytes_and_no_samples_are_empty(tmp_path: Path, make_clip: Callable[..., bytes]) -> None:
    path = tmp_path / "empty.wav"
    path.write_bytes(b"")
    assert _outcome(b"") == "empty"
    assert _outcome(str(path)) == "empty"
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(0, dtype=np.float32), 16_000, format="WAV")
    assert _outcome(buffer.getvalue()) == "empty"
    assert _outcome(make_clip("wav16.wav"), start_seconds=5.0) == "empty"
    assert _outcome(make_clip("wav16.wav"), start_seconds=-1.0) == "empty"
    assert _outcome(make_clip("wav16.wav"), duration_seconds=float("nan")) == "empty"


def test_a_segment_past_the_end_is_what_lies_before_it(make_clip: Callable[..., bytes]) -> None:
    for name in ("wav16.wav", "opus.ogg", "aac.m4a", "opus.webm"):
        waveform = decode(make_clip(name), start_seconds=0.5, duration_seconds=10)
        assert waveform.duration_seconds == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "content", [b"not audio at all", b"\x89PNG\r\n\x1a\n" + bytes(200), b"RIFF", b"OggS", b"\0" * 5000]
)
def test_other_files_are_undecodable(content: bytes) -> None:
    assert _outcome(content) == "undecodable"


def test_the_reason_is_the_same_in_every_attempt(tmp_path: Path) -> None:
    reasons = []
    (tmp_path / "a.wav").write_bytes(b"not audio at all")
    for audio in (b"not audio at all", b"not audio at all", str(tmp_path / "a.wav")):
        with pytest.raises(ClipError) as caught:
            decode(audio)
        reasons.append(caught.value.reason)
    said = "soundfile: Format not recognised.; PyAV: Invalid data found when processing input"
    assert reasons == [f"16 bytes: {said}"] * 2 + [f"{tmp_path / 'a.wav'}: {said}"]


def test_a_playlist_is_not_followed(tmp_path: Path, make_clip: Callable[..., bytes]) -> None:
    target = tmp_path / "secret.wav"
    target.write_bytes(make_clip("wav16.wav"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\nfile://{target}\n#EXT-X-ENDLIST\n"
    assert _outcome(playlist.encode()) == "undecodable"
    assert _outcome(f"ffconcat version 1.0\nfile {target}\n".encode()) == "undecodable"


@pytest.mark.parametrize(
    "name", ["wav16.wav", "float.wav", "flac.flac", "mp3.mp3", "vorbis.ogg", "opus.ogg", "opus.webm"]
)
def test_a_file_cut_at_60_percent_is_truncated(name: str, make_clip: Callable[..., bytes]) -> None:
    content = make_clip(name, 5.0)
    assert _outcome(content[: int(0.6 * len(content))]) == "truncated"


def test_a_segment_that_is_whole_in_a_cut_file_is_given(make_clip: Callable[..., bytes]) -> None:
    for name in ("wav16.wav", "flac.flac", "opus.ogg"):
        content = make_clip(name, 5.0)
        part = decode(content[: int(0.6 * len(content))], start_seconds=0.5, duration_seconds=1.0)
        np.testing.assert_allclose(
            part.samples_CT, decode(content, start_seconds=0.5, duration_seconds=1.0).samples_CT, atol=1e-6
        )


def _wav_claiming(data_size: int, content: bytes, riff_size: int | None = None) -> bytes:
    layout = struct.pack("<HHIIHH", 1, 1, 8000, 16_000, 2, 16)
    size = (36 + data_size) % 2**32 if riff_size is None else riff_size
    return (
        b"RIFF"
        + struct.pack("<I", size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + layout
        + b"data"
        + struct.pack("<I", data_size)
        + content
    )


def test_a_header_that_claims_4_billion_samples_costs_nothing() -> None:
    for size in (0xFFFFFFF0, 0xFFFFFFFF, 0x7FFFFFFF):
        assert _outcome(_wav_claiming(size, bytes(16_000))) == "truncated"


def test_a_wav_written_to_a_pipe_is_what_it_holds() -> None:
    waveform = decode(_wav_claiming(0xFFFFFFFF, bytes(16_000), riff_size=0xFFFFFFFF))
    assert waveform.samples_CT.shape == (1, 8000)


def test_a_flac_that_claims_more_than_the_limits_is_not_read(make_clip: Callable[..., bytes]) -> None:
    content = bytearray(make_clip("flac.flac"))
    total = content.index((44_100).to_bytes(4, "big"))
    content[21] |= 0x0F  # the upper 4 of the 36 bits that count samples in STREAMINFO
    content[22:26] = b"\xff\xff\xff\xff"
    assert total < 26
    assert _outcome(bytes(content)) == "too_long"


def _no_length(name: str, content: bytes) -> bytes:
    if name == "flac.flac":
        changed = bytearray(content)
        changed[21] &= 0xF0
        changed[22:26] = bytes(4)
        return bytes(changed)
    return content


@pytest.mark.parametrize(
    "name", ["wav16.wav", "flac.flac", "vorbis.ogg", "mp3.mp3", "opus.ogg", "aac.m4a", "adts.aac", "opus.webm"]
)
@pytest.mark.parametrize("limits", [DecodeLimits(max_duration_seconds=2.0), DecodeLimits(max_decoded_mib=0.3)])
def test_what_passes_a_limit_is_too_long_and_its_segments_are_not(
    name: str, limits: DecodeLimits, make_clip: Callable[..., bytes]
) -> None:
    for content in {make_clip(name, 5.0), _no_length(name, make_clip(name, 5.0))}:
        assert _outcome(content, limits=limits) == "too_long"
        part = decode(content, start_seconds=2.5, duration_seconds=1.0, limits=limits)
        assert part.duration_seconds == pytest.approx(1.0)


def test_a_bomb_of_silence_stops_at_the_limit() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((48_000 * 60, 8), dtype=np.int16), 48_000, format="FLAC")
    content = _no_length("flac.flac", buffer.getvalue())
    assert len(content) < 100_000  # 88 MiB decoded
    assert _outcome(content, limits=DecodeLimits(max_decoded_mib=10)) == "too_long"


@pytest.mark.parametrize("name", ALL)
def test_nothing_but_clip_errors_comes_out_of_corrupted_bytes(name: str, make_clip: Callable[..., bytes]) -> None:
    rng = np.random.default_rng(sum(name.encode()))
    clean = make_clip(name, 1.0, 2)
    for round_number in range(40):
        damaged = np.frombuffer(clean, dtype=np.uint8).copy()
        reach = len(damaged) if round_number % 2 else min(200, len(damaged))
        damaged[rng.integers(0, reach, rng.integers(1, 30))] = rng.integers(0, 256)
        first, last = sorted(rng.integers(0, len(damaged), 2))
        pieces = [damaged, damaged[: last + 1], np.r_[damaged[:first], damaged[last:]]]
        segment = [(None, None), (0.3, 0.4), (0.9, 5.0), (12.0, 3.0)][round_number % 4]
        try:
            decode(pieces[round_number % 3].tobytes(), start_seconds=segment[0], duration_seconds=segment[1])
        except ClipError as error:
            assert error.outcome in ("empty", "undecodable", "truncated", "too_long")  # noqa: PT017


@pytest.mark.parametrize("name", ["mp3.mp3", "ffmpeg.mp3", "vorbis.ogg"])
def test_long_files_are_the_same_by_either_decoder(
    name: str, make_clip: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = make_clip(name, 20.0)
    at_once = decode(content)
    monkeypatch.setattr("raysem.audio.soundfile_decoder.BLOCK_VALUES", 100_000)
    np.testing.assert_allclose(decode(content).samples_CT, at_once.samples_CT, atol=1e-5)


def test_eight_channels_are_read_without_a_crash(make_clip: Callable[..., bytes]) -> None:
    # PyAV 18 takes what lies behind the eighth pointer of such a frame for a ninth plane
    waveform = decode(make_clip("aac.m4a", 1.0, 8))
    assert waveform.samples_CT.shape == (8, 44_100)
    assert np.isfinite(waveform.samples_CT).all()


def test_a_remote_file_is_read_whole_or_in_blocks(
    make_clip: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    content = make_clip("flac.flac", 3.0)
    fsspec.filesystem("memory").pipe_file("/clips/a.flac", content)
    expected = decode(content)
    np.testing.assert_array_equal(decode("memory://clips/a.flac").samples_CT, expected.samples_CT)
    monkeypatch.setattr("raysem.audio.sources.FETCH_WHOLE_BYTES", 10)
    np.testing.assert_array_equal(decode("memory://clips/a.flac").samples_CT, expected.samples_CT)
    assert _outcome("memory://clips/absent.flac") == "missing"
