"""Where a run's object store is, as its recipe says it, for every process of the run."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from pydantic import field_validator

from raysem.config import Settings
from raysem.credentials import without_credentials


class StoreSettings(Settings):
    """Endpoint and region of `s3://`. Credentials are not for a recipe: they come from the environment or a role.

    What is said here wins over the environment: over AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_S3 and over AWS_REGION and
    AWS_DEFAULT_REGION of the driver, of a submitted job and of the nodes. It changes no stage's digest: the same files
    behind another endpoint are the same.
    """

    endpoint_url: str | None = None
    """Of a store that is not Amazon's, http://minio.example:9000; null: as the environment says, else Amazon's."""
    region: str | None = None
    """Region of the buckets; null: as the environment says."""

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint(cls, text: str | None) -> str | None:
        if text is not None and not _is_endpoint(text):
            expected = "http://host:port or https://host:port, without user, password or query"
            raise ValueError(f"expected {expected}, got {without_credentials(text)!r}")
        return text

    @field_validator("region")
    @classmethod
    def _check_region(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text):
            raise ValueError(f"expected a name such as us-east-1, got {text!r}")
        return text

    @property
    def environment(self) -> dict[str, str]:
        """What makes AWS clients look there; empty where nothing is said.

        The endpoint is that of S3 alone: a role is still asked for at Amazon's.
        """
        found: dict[str, str] = {}
        if self.endpoint_url is not None:
            found |= {"AWS_ENDPOINT_URL_S3": self.endpoint_url, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false"}
        if self.region is not None:
            found |= {"AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region}  # some clients read only one
        return found

    def enter(self) -> None:
        """Let this process, and what it starts from now on, look there. To be called before a store is first asked."""
        os.environ.update(self.environment)


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # a ValueError for one that cannot be
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or "@" in parts.netloc) and not re.search(r"\s", text)
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname)
