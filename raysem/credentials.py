"""Credentials have no place in what is written or shown: they are found in a text, and masked.

What counts: `user:password@` of a URI, the signature of a presigned URL, an access key of AWS, a bearer token, and the
values that this process has in its environment under a secret's name.
"""

from __future__ import annotations

import os
import re

MASK = "***"
MIN_SECRET_CHARACTERS = 8
"""A shorter value of an environment variable would be found in innocent words."""

_SECRET_NAME = re.compile(r"(?:SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|ACCOUNT_?KEY|SIGNATURE)")
_NOT_SECRET = re.compile(r"(?:_FILE|_PATH|_DIR|_URI|_URL|_MODE|_PARALLELISM|_WARNINGS?)$")

_USER_PASSWORD = re.compile(r"(?<=://)[^\s/?#@'\"<>]*:[^\s/?#'\"<>]*(?=@)")
# A secret key may hold slashes where somebody forgot to quote them.
_USER_PASSWORD_UNQUOTED = re.compile(r"(?<=://)[^\s/?#@:'\"<>]+:(?!\d+/)[^\s@'\"<>]+(?=@)")
_QUERY = re.compile(
    r"(?i)(?<=[?&;])((?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|awsaccesskeyid"
    r"|googleaccessid|signature|sig|access_?token|token|api_?key|secret|password)=)[^&;#\s'\"<>]+"
)
_AUTHORIZATION = re.compile(r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{20,}")
_AWS_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")


def without_credentials(text: str) -> str:
    """`text` with every credential in it masked; a text without one comes back as it is."""
    for value in _environment_secrets():
        if value in text:
            text = text.replace(value, MASK)
    if "://" in text:
        text = _USER_PASSWORD_UNQUOTED.sub(MASK, _USER_PASSWORD.sub(MASK, text))
    if "=" in text:
        text = _QUERY.sub(rf"\g<1>{MASK}", text)
    return _AWS_KEY_ID.sub(MASK, _AUTHORIZATION.sub(rf"\g<1>{MASK}", text))


def holds_credentials(text: str) -> bool:
    """Whether something in `text` would be masked."""
    return without_credentials(text) != text


def _environment_secrets() -> list[str]:
    """The longest first: one may be a part of another."""
    found = {
        value.strip()
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name.upper()) and not _NOT_SECRET.search(name.upper())
    }
    return sorted((value for value in found if len(value) >= MIN_SECRET_CHARACTERS), key=len, reverse=True)
