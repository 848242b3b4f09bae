"""Credentials reach no log, recipe, report or error, wherever a user or a driver has put them."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path

import pytest
from pydantic import Field

from raysem import config, storage
from raysem.credentials import MASK, holds_credentials, without_credentials
from raysem.errors import ClipError, ConfigError, DataError, StorageError
from raysem.logs import set_up
from raysem.runs.launch import main

HUSH = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYHUSHHUSHKEY"
KEY_ID = "AKIA" + "HUSHHUSHHUSHHUSH"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": HUSH,
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEHUSHHUSHtoken==",
    "RAY_AUTH_TOKEN": "0123456789abcdefHUSHHUSH",
    "HF_TOKEN": "hf_HUSHHUSHHUSHHUSH",
    "AZURE_STORAGE_ACCOUNT_KEY": "abcHUSHHUSHdef",
}
PRESIGNED = (
    "https://bucket.s3.amazonaws.com/a.wav?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    f"&X-Amz-Credential={KEY_ID}%2F20261121%2Fus-east-1&X-Amz-Expires=60&X-Amz-Signature=0badHUSH0bad&part=1"
)
TEXTS = {
    "user and password": f"s3://{KEY_ID}:{HUSH.replace('/', '%2F')}@bucket/a.wav: no such file",
    "unquoted password": f"cannot open s3://{KEY_ID}:{HUSH}@bucket/a.wav now",
    "password alone": "redis://:HUSHHUSH@host:6379/0",
    "presigned": f"missing: {PRESIGNED}",
    "google": "https://storage.googleapis.com/b/a?GoogleAccessId=me@HUSH&Signature=HUSH%3D&Expires=1",
    "azure": "https://x.blob.core.windows.net/c/a.wav?sv=2024&sig=HUSHHUSH%3D&se=2026",
    "header": "HTTP 403, sent Authorization: Bearer abcdefghijHUSHHUSHklmnop",
    "key id": f"InvalidAccessKeyId {KEY_ID}",
} | {name: f"the driver said {value!r} and more" for name, value in ENVIRONMENT.items()}
HARMLESS = [
    "s3://bucket/corpus/a@b.wav",
    "s3://bucket/2024:01:02/a.wav",
    "http://localhost:8080/x@y/a.wav",
    "ray://10.0.0.1:10001",
    "sftp://me@host/a.wav",
    "hf://datasets/org/name@revision/a.parquet",
    "https://host/a.wav?part=1&sigma=2&tokens=100",
    "a: b@c, and a bearer of bad news; basic training, secret=agent",
    "AKIA, ASIA, Asia:AKIAshort",
    "clip folder/12:30@noon.wav",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_credential_is_masked_and_the_rest_stays(text: str):
    masked = without_credentials(text)
    assert "HUSH" not in masked
    assert MASK in masked
    assert holds_credentials(text)
    assert without_credentials(masked) == masked


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_credential_stays_as_it_is(text: str):
    assert without_credentials(text) == text
    assert not holds_credentials(text)


def test_a_presigned_url_keeps_what_is_not_secret():
    masked = without_credentials(PRESIGNED)
    assert masked.startswith(
        "https://bucket.s3.amazonaws.com/a.wav?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=***"
    )
    assert masked.endswith("&X-Amz-Expires=60&X-Amz-Signature=***&part=1")


@pytest.mark.parametrize("kind", [DataError, StorageError, ConfigError])
def test_no_error_of_ours_says_a_credential_here_or_in_another_process(kind: type[Exception]):
    for text in TEXTS.values():
        error = kind(text)
        for seen in (error, pickle.loads(pickle.dumps(error))):
            assert "HUSH" not in f"{seen} {seen!r} {seen.args}"


def test_the_reason_of_a_rejected_clip_says_no_credential():
    error = ClipError("missing", PRESIGNED)
    for seen in (error, pickle.loads(pickle.dumps(error))):
        assert (seen.outcome, "HUSH" in seen.reason) == ("missing", False)
        assert "HUSH" not in str(seen)


def test_log_lines_and_the_tracebacks_within_them_say_no_credential(capsys: pytest.CaptureFixture):
    logger = logging.getLogger("raysem")
    before = logger.handlers[:]
    logger.handlers[:] = []
    try:
        set_up()
        log = logging.getLogger("raysem.security")
        for text in TEXTS.values():
            log.info("read %s", text)
            try:
                raise OSError(text)
            except OSError:
                log.exception("failed at %s", text)
    finally:
        logger.handlers[:] = before
    said = capsys.readouterr().err
    assert said.count(MASK) >= 3 * len(TEXTS)
    assert "HUSH" not in said
    assert "Traceback" in said


class Place(config.Settings):
    root: str = ""
    roots: tuple[str, ...] = ()


class Recipe(config.Settings):
    corpus: Place = Place()
    named: dict[str, Place] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"corpus": {"root": f"s3://{KEY_ID}:x@bucket"}}, "corpus.root"),
        ({"corpus": {"roots": ["a", PRESIGNED]}}, "corpus.roots.1"),
        ({"named": {"wild": {"root": HUSH}}}, "named.wild.root"),
    ],
)
def test_a_recipe_with_a_credential_is_refused_and_so_never_written(content: dict, key: str):
    with pytest.raises(ConfigError, match=rf"^recipe: {key}: holds a credential") as caught:
        config.build(Recipe, content)
    assert "HUSH" not in str(caught.value)


@pytest.mark.parametrize("wrong", [f"s3://{KEY_ID}:{HUSH}@bucket/out", f"memory://me:{HUSH}@x/out"])
def test_a_location_with_a_password_is_refused_before_anything_is_sent(wrong: str):
    for use in (storage.exists, storage.read_bytes, lambda where: storage.write_text(where, "x")):
        with pytest.raises(StorageError, match=r"://\*\*\*@\w+/out: holds a password; refused") as caught:
            use(wrong)
        assert "HUSH" not in str(caught.value)


def files_of(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def job(tmp_path: Path, boom: str):
    """The job of the quickstart whose preflight meets a driver that says too much."""
    from dataclasses import replace

    from raysem.runs.curate_and_train import JOB

    def preflight(*_: object) -> list[str]:
        raise RuntimeError(f"first line\n{boom}")

    return replace(JOB, preflight=preflight)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_an_unexpected_error_leaves_no_credential_on_the_screen_or_in_error_log(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert main(job(tmp_path, text), ["--output", str(tmp_path / "out")]) == 1
    written, shown = files_of(tmp_path), capsys.readouterr()
    assert "RuntimeError: first line" in written
    assert "stopped by an unexpected error" in shown.err
    assert "HUSH" not in written + shown.err + shown.out


def test_a_dry_run_and_a_refused_option_print_no_credential(tmp_path: Path, capsys: pytest.CaptureFixture):
    from raysem.runs.curate_and_train import JOB

    output = str(tmp_path / "out")
    assert main(JOB, ["--output", output, "--set", f"corpora.wild.root={PRESIGNED}", "--dry-run"]) == 2
    assert main(JOB, ["--output", output, "--set", f"{PRESIGNED}"]) == 2
    assert main(JOB, ["--output", f"s3://{KEY_ID}:{HUSH}@bucket/out"]) == 2
    shown = capsys.readouterr()
    assert "HUSH" not in shown.err + shown.out
    assert len(shown.err.strip().splitlines()) == 3
    assert not (tmp_path / "out").exists()


def test_no_file_of_ours_prints_or_keeps_the_environment():
    # Single variables by name are read in a few places; the whole is read only to mask its secrets.
    for file in Path(storage.__file__).parent.rglob("*.py"):
        if file.name != "credentials.py":
            found = re.findall(
                r"os\.environ\.(?:items|values|copy)\b|(?:\(|\*\*)\s*os\.environ\b(?![.\[])", file.read_text()
            )
            assert not found, file
