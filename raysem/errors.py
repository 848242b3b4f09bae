"""The exceptions of raysem. Each is rebuilt from its `args`, so it crosses Ray processes as itself."""

from __future__ import annotations

from typing import Any

from raysem.credentials import without_credentials


class RaysemError(Exception):
    """Base of every error that raysem raises on purpose. Credentials in its texts are masked: it is shown and kept."""

    def __init__(self, *args: Any):
        super().__init__(*(without_credentials(part) if isinstance(part, str) else part for part in args))


class UserError(RaysemError):
    """A mistake that the user can put right. Jobs print it on one line and exit with status 2."""


class ConfigError(UserError):
    """A recipe or an override that cannot be used; the message starts with the dotted key."""


class DataError(UserError):
    """A table, corpus or checkpoint that is not what it should be; the message names the file and the row or key."""


class StorageError(DataError, OSError):
    """A store behind a URI cannot be reached or refuses: no credentials, no such bucket, no connection."""


class StageError(RaysemError):
    """A stage could not be finished; what it had written stays and is used by the next attempt."""


class DiskFullError(StageError, OSError):
    """A file does not fit on its disk; nothing is left of it."""


class ClipError(RaysemError):
    """One clip cannot be used. `outcome` is one of `raysem.tables.REJECT_OUTCOMES`."""

    def __init__(self, outcome: str, reason: str):
        super().__init__(outcome, reason)
        self.outcome, self.reason = self.args

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}"
