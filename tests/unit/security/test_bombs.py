"""Small files that claim or unpack to much: each is refused or read within the limits that SECURITY.md states."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from measuring import growth_mib, write_gzip

from raysem.audio.crops import centre_crop, train_crop
from raysem.config import read_yaml
from raysem.corpora.macs import read_macs
from raysem.corpora.parquet import ParquetOptions, read_parquet
from raysem.errors import ConfigError, DataError
from raysem.models.importers.pth import read_state_dict

MIB = 2**20
UNPACKED_MIB = 512
TABLE_LIMIT_MIB = 128
"""What reading a text, a tar or YAML may take, whatever it unpacks to."""

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{number}: &a{number} [{','.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 12)
)

READ = """
from raysem.errors import RaysemError
from raysem.corpora.sources import read_csv
from raysem.corpora.webdataset import read_webdataset
from raysem.corpora.parquet import ParquetOptions, read_parquet
from raysem.corpora.macs import read_macs
"""


def header(kind: bytes, size: int, name: str = "a.xyz") -> bytes:
    information = tarfile.TarInfo(name)
    information.type, information.size = kind, size
    return information.tobuf(tarfile.GNU_FORMAT)


def csv_of_one_line(file: Path) -> Path:
    return write_gzip(file / "a.csv.gz", b"file,text\n", b"a" * MIB, UNPACKED_MIB)


def tar_with_a_long_name(file: Path) -> Path:
    return write_gzip(file / "n.tar.gz", header(tarfile.GNUTYPE_LONGNAME, UNPACKED_MIB * MIB), bytes(MIB), UNPACKED_MIB)


def tar_with_a_pax_header(file: Path) -> Path:
    return write_gzip(file / "p.tar.gz", header(tarfile.XHDTYPE, UNPACKED_MIB * MIB), bytes(MIB), UNPACKED_MIB)


def tar_of_captions(file: Path) -> Path:
    caption = header(tarfile.REGTYPE, 8 * MIB - 512, "a.txt") + b"x" * (8 * MIB - 512)
    return write_gzip(file / "c.tar.gz", b"", caption, UNPACKED_MIB // 8, bytes(10240))


def macs_of_one_line(file: Path) -> Path:
    (file / "audio").mkdir()
    write_gzip(file / "MACS.yaml", b"files: [", b"a" * MIB, UNPACKED_MIB)
    return file


BOMBS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "csv": (csv_of_one_line, "list(read_csv(sys.argv[1]))"),
    "tar name": (tar_with_a_long_name, "list(read_webdataset(sys.argv[1]))"),
    "tar pax": (tar_with_a_pax_header, "list(read_webdataset(sys.argv[1]))"),
    "tar captions": (tar_of_captions, "list(read_webdataset(sys.argv[1]))"),
    "macs": (macs_of_one_line, "list(read_macs(sys.argv[1]))"),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_gzip_bomb_is_refused_before_it_is_unpacked(name: str, tmp_path: Path):
    make, read = BOMBS[name]
    attack = f"""
try:
    {read}
except RaysemError as error:
    assert "refused" in str(error) or "expected small" in str(error), error
else:
    raise SystemExit("was read")
"""
    assert growth_mib(READ, attack, make(tmp_path)) < TABLE_LIMIT_MIB


def test_the_empty_members_of_a_tar_are_not_remembered(tmp_path: Path):
    file = write_gzip(tmp_path / "m.tar.gz", b"", header(tarfile.REGTYPE, 0) * 1000, 30, bytes(10240))
    assert growth_mib(READ, "assert list(read_webdataset(sys.argv[1])) == []", file) < 6  # 30,000 are 14 MiB if kept


def test_a_string_that_stands_in_every_row_by_a_dictionary_is_read_a_few_rows_at_a_time(tmp_path: Path):
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), pa.array(["x" * (8 * MIB)]))
    table = pa.table({"audio": pa.array([b"a"] * 64), "text": words})
    pq.write_table(table, tmp_path / "d.parquet", compression="zstd", dictionary_pagesize_limit=MIB * 64)
    assert (tmp_path / "d.parquet").stat().st_size < MIB // 2  # half a GiB in all
    smaller = READ + f"import raysem.corpora.parquet as reader\nreader.MAX_BATCH_BYTES = {32 * MIB}\n"
    attack = "assert sum(1 for _ in read_parquet(sys.argv[1], ParquetOptions(caption_column='text'))) == 64"
    # At most 32 MiB in Arrow and again in Python, of two batches, and the dictionary; all rows at once take 1024.
    assert growth_mib(smaller, attack, tmp_path / "d.parquet") < 192


def test_a_parquet_column_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raysem.corpora.parquet.MAX_BATCH_BYTES", 8 * MIB)
    table = pa.table({"audio": pa.array([b"a"] * 4), "text": ["x" * (4 * MIB)] * 4})
    pq.write_table(table, tmp_path / "d.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match=r"d\.parquet: column 'text' grows from \d+ to \d+ bytes; refused"):
        list(read_parquet(str(tmp_path), ParquetOptions(caption_column="text")))
    assert len(list(read_parquet(str(tmp_path)))) == 4  # a column that is not asked for is not read


def test_anchors_of_yaml_that_stand_for_more_than_memory_are_refused():
    with pytest.raises(ConfigError, match=r"r\.yaml: its anchors stand for more than 1000000 values"):
        read_yaml(LAUGHS, "r.yaml")


@pytest.mark.parametrize("text", ["a: " + "[" * 5000, "a: " + "{a: " * 5000])
def test_yaml_without_end_is_one_line(text: str):
    with pytest.raises(ConfigError, match=r"r\.yaml: not valid YAML: too many lists or mappings within each other"):
        read_yaml(text, "r.yaml")


@pytest.mark.parametrize(
    "entry", ["{filename: *a11, annotations: []}", "{filename: a, annotations: [{sentence: *a11}]}"]
)
def test_anchors_of_macs_are_not_written_out(tmp_path: Path, entry: str):
    (tmp_path / "audio").mkdir()
    (tmp_path / "MACS.yaml").write_text(f"{LAUGHS}files:\n- {entry}\n")
    with pytest.raises(DataError, match=r"MACS\.yaml file 1: .*a list where a text should be"):
        list(read_macs(str(tmp_path)))


def test_json_without_end_beside_a_clip_is_one_line(tmp_path: Path):
    from raysem.corpora.webdataset import read_webdataset

    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, content in (("a.wav", b"RIFF"), ("a.json", b"[" * 100_000)):
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    with pytest.raises(DataError, match=r"member a\.json: not valid JSON"):
        list(read_webdataset(str(tmp_path)))


def packed_torch_file(file: Path, content: object) -> Path:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    return file


def test_a_checkpoint_with_compressed_tensors_is_refused(tmp_path: Path):
    file = packed_torch_file(tmp_path / "a.pth", {"model": {"a": torch.zeros(16 * MIB)}})
    assert file.stat().st_size < MIB  # 64 MiB unpacked
    with pytest.raises(DataError, match=r"a\.pth: .* is compressed, which torch does not write; refused"):
        read_state_dict(str(file), key="k")


def wav(samples: bytes, rate: int, channels: int = 1, claimed: int | None = None) -> bytes:
    size = len(samples) if claimed is None else claimed
    layout = struct.pack("<HHIIHH", 1, channels, rate, (rate * channels * 2) % 2**32, (channels * 2) % 2**16, 16)
    head = b"RIFF" + struct.pack("<I", (36 + size) % 2**32) + b"WAVEfmt " + struct.pack("<I", 16) + layout
    return head + b"data" + struct.pack("<I", size) + samples


def flac(seconds: int, rate: int, channels: int) -> bytes:
    buffer = io.BytesIO()
    samples_TC = np.full((seconds * rate, channels), 300, dtype=np.int16)
    soundfile.write(buffer, samples_TC, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def long_flac(content: bytes) -> bytes:
    """The same frames under a header that claims 2**36 samples: 18 days."""
    changed = bytearray(content)
    changed[21] |= 0x0F
    changed[22:26] = b"\xff\xff\xff\xff"
    return bytes(changed)


def without_length(content: bytes) -> bytes:
    """The same frames under a header that says nothing of their number."""
    return content[:21] + b"\xf0\0\0\0\0" + content[26:]


def wide_mp4() -> bytes:
    """An m4a whose table claims 134 million samples of one byte."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 51_200), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    changed = bytearray(buffer.getvalue())
    at = changed.index(b"stsz")
    changed[at + 8 : at + 16] = struct.pack(">II", 1, 2**27)
    at = changed.index(b"stsc")
    changed[at + 16 : at + 20] = struct.pack(">I", 2**27)
    return bytes(changed)


DECODED_MIB = 24
RESAMPLING_MIB = 128
"""Of blocks that have one size whatever the clip."""
AUDIO = f"""
import json
from pathlib import Path
import numpy as np
from raysem.audio.load import AudioSettings, load_clip
from raysem.errors import ClipError
import soundfile, av, io
settings = AudioSettings(limits={{"max_decoded_mib": {DECODED_MIB}, "max_duration_seconds": 130}})
buffer = io.BytesIO()
soundfile.write(buffer, np.full(48_000, 0.1), 48_000, format="OGG", subtype="VORBIS")
load_clip(buffer.getvalue(), None, settings=settings)
"""
ATTACK = """
outcomes = {}
for file in sorted(Path(sys.argv[1]).iterdir()):
    content = file.read_bytes()
    try:
        outcomes[file.name] = len(load_clip(content, None, settings=settings))
    except ClipError as error:
        outcomes[file.name] = error.outcome
Path(sys.argv[2]).write_text(json.dumps(outcomes))
"""


def test_no_clip_takes_more_than_its_limit_allows_whatever_it_claims(tmp_path: Path):
    clips = tmp_path / "clips"
    clips.mkdir()
    noise = np.full(2000, 1000, "<i2").tobytes()
    bombs = {
        "claims_4_gib.wav": wav(noise, 44_100, claimed=0xFFFFFFF0),
        "claims_18_days.flac": long_flac(flac(1, 48_000, 1)),
        "table_of_134_million.m4a": wide_mp4(),
        "minutes_without_a_length.flac": without_length(flac(200, 48_000, 8)),
        "65535_channels.wav": wav(bytes(MIB), 44_100, channels=65_535),
        "1024_channels.wav": wav(bytes(MIB), 44_100, channels=1024),
        "rate_of_2_ghz.wav": wav(noise * 400, 2**31 - 1),
        "rate_of_4_ghz.wav": wav(noise * 400, 2**32 - 1),
        "just_within_8_channels.flac": flac(16, 48_000, 8),
        "just_within_odd_rate.flac": flac(62, 65_521, 1),
        "rate_of_1_hz.wav": wav(noise[:240], 1),
    }
    for name, content in bombs.items():
        (clips / name).write_bytes(content)
        assert len(content) < 4 * MIB
    growth = growth_mib(AUDIO, ATTACK, clips, tmp_path / "outcomes.json")
    outcomes = json.loads((tmp_path / "outcomes.json").read_text())
    assert outcomes["claims_4_gib.wav"] == "truncated"
    assert outcomes["claims_18_days.flac"] == outcomes["minutes_without_a_length.flac"] == "too_long"
    assert outcomes["table_of_134_million.m4a"] == outcomes["65535_channels.wav"] == "undecodable"
    assert outcomes["1024_channels.wav"] == outcomes["rate_of_2_ghz.wav"] == "too_short"
    assert outcomes["just_within_8_channels.flac"] == 16 * 44_100
    assert outcomes["just_within_odd_rate.flac"] == 62 * 44_100
    assert outcomes["rate_of_1_hz.wav"] == 120 * 44_100
    # Unbounded, the minutes without a length alone would take 293 MiB and as much again to join them.
    assert growth < 4 * DECODED_MIB + RESAMPLING_MIB, outcomes


@pytest.mark.parametrize("crop", [centre_crop, lambda clip_T, n: train_crop(clip_T, n, seed=0, epoch=0, clip_id="a")])
def test_a_crop_does_not_hold_the_whole_clip(crop: Callable):
    clip_T = np.arange(1000, dtype=np.float32)
    assert not np.shares_memory(crop(clip_T, 10), clip_T)
