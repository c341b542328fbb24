"""Secrets that must not leave the house: files refused by their names, and by what well-known
tokens look like.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from wbdc.core.errors import EnvironmentLacks, UsageFault
from wbdc.core.files import read_bytes

MAX_SCANNED_BYTES = (
    2**20
)  # bytes; larger files are data or weights, which nobody types a token into
SECRET_FILE_NAMES = {
    "settings with passwords": (
        ".env",
        ".env.*",
        "*.env",
        "secrets.json",
        "secrets.toml",
        "secrets.yaml",
        "secrets.yml",
    ),
    "a login": (
        ".netrc",
        "_netrc",
        ".git-credentials",
        ".pypirc",
        ".npmrc",
        ".htpasswd",
        "kaggle.json",
        "credentials",
        "credentials.json",
    ),
    "a private key": (
        "id_rsa",
        "id_dsa",
        "id_ecdsa",
        "id_ed25519",
        "*.pem",
        "*.key",
        "*.p12",
        "*.pfx",
        "*.jks",
    ),
}
TOKEN_PATTERNS = {
    "a private key": rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----",
    "a token of Hugging Face": rb"\b(hf|api_org)_[A-Za-z0-9]{30,}",
    "a token of GitHub": rb"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50})",
    "a token of GitLab": rb"\bglpat-[A-Za-z0-9_-]{20}",
    "a key of Amazon": rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a key of Google": rb"\bAIza[0-9A-Za-z_-]{35}",
    "a token of Slack": rb"\bxox[abeoprs]-[0-9A-Za-z-]{10,}",
    "a token of PyPI": rb"\bpypi-AgE[0-9A-Za-z_-]{50}",
    "a key of a language model's service": rb"\bsk-(proj|ant|or)-[0-9A-Za-z_-]{20}",
    "a password in an address": rb"\bhttps?://[^\s/:@\"'{}<>$]+:[^\s/:@\"'{}<>$]+@[\w.-]",
}
SHAPES = {kind: re.compile(shape) for kind, shape in TOKEN_PATTERNS.items()}


def refuse_secrets(files: Path | Iterable[Path]) -> None:
    """Refuse files, or a folder with all that is in it, when a name or a small file's content looks
    like a secret.

    Raises UsageFault that names up to ten files and the kind of secret, never the secret;
    EnvironmentLacks for what cannot be read.
    """
    found = [f"{path} ({kind})" for path in _listed(files) if (kind := _kind(path))]
    if found:
        raise UsageFault(
            f"{len(found)} files hold secrets or look like it and are not packed: {', '.join(found[:10])}; take them out and pack again"
        )


def _listed(files: Path | Iterable[Path]) -> list[Path]:
    if not isinstance(files, Path):
        return sorted(files)
    return (
        sorted(p for p in files.rglob("*") if p.is_file() or p.is_symlink())
        if files.is_dir()
        else [files]
    )


def _kind(path: Path) -> str | None:
    """Say what kind of secret a file holds, None for none that is known."""
    named = [
        kind
        for kind, patterns in SECRET_FILE_NAMES.items()
        if any(fnmatch(path.name.lower(), pattern) for pattern in patterns)
    ]
    if named:
        return named[0]
    try:
        content = (
            read_bytes(path).replace(b"\0", b"") if path.stat().st_size < MAX_SCANNED_BYTES else b""
        )  # UTF-16 has a zero beside every letter
    except OSError as error:
        raise EnvironmentLacks(
            f"{path} cannot be read: {error.strerror}; it must be checked before it is packed"
        ) from error
    return next((kind for kind, shape in SHAPES.items() if shape.search(content)), None)
