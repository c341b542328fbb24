"""Secrets must not be packed: files are refused by their names, and by the patterns of well-known
tokens.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.core.files import read_bytes

MAX_SCANNED_BYTES = 2**20  # larger files are data or weights
MAX_LISTED_SECRETS = 10  # in an error message
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
TOKEN_PATTERNS = {  # kind: (a part of every token, which is faster to find, pattern)
    "a private key": (("PRIVATE KEY",), rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----"),
    "a token of Hugging Face": (("hf_", "api_org_"), rb"\b(hf|api_org)_[A-Za-z0-9]{30,}"),
    "a token of GitHub": (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        rb"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50})",
    ),
    "a token of GitLab": (("glpat-",), rb"\bglpat-[A-Za-z0-9_-]{20}"),
    "a key of Amazon": (("AKIA", "ASIA"), rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a key of Google": (("AIza",), rb"\bAIza[0-9A-Za-z_-]{35}"),
    "a token of Slack": (("xox",), rb"\bxox[abeoprs]-[0-9A-Za-z-]{10,}"),
    "a token of PyPI": (("pypi-AgE",), rb"\bpypi-AgE[0-9A-Za-z_-]{50}"),
    "a key of a language model's service": (
        ("sk-proj-", "sk-ant-", "sk-or-"),
        rb"\bsk-(proj|ant|or)-[0-9A-Za-z_-]{20}",
    ),
    "a password in an address": (
        ("http://", "https://"),
        rb"\bhttps?://[^\s/:@\"'{}<>$]+:[^\s/:@\"'{}<>$]+@[\w.-]",
    ),
}
COMPILED_PATTERNS = {
    kind: ([part.encode() for part in parts], re.compile(pattern))
    for kind, (parts, pattern) in TOKEN_PATTERNS.items()
}


def refuse_secrets(files: Path | Iterable[Path]) -> None:
    """Refuse files, or a folder with everything in it, when the name of a file or the content of a
    small file looks like a secret.

    Raises UsageFault that names up to ten files and the kind of secret, never the secret itself;
    EnvironmentFault for a file that cannot be read.
    """
    secrets = [f"{path} ({kind})" for path in _list_paths(files) if (kind := _secret_kind(path))]
    if secrets:
        raise UsageFault(
            f"{len(secrets)} files look like secrets and are not packed: "
            f"{', '.join(secrets[:MAX_LISTED_SECRETS])}; remove them and pack again"
        )


def _list_paths(files: Path | Iterable[Path]) -> list[Path]:
    if not isinstance(files, Path):
        return sorted(files)
    if not files.is_dir():
        return [files]
    return sorted(path for path in files.rglob("*") if path.is_file() or path.is_symlink())


def _secret_kind(path: Path) -> str | None:
    """Return the kind of secret that a file holds, None for no known kind."""
    for kind, patterns in SECRET_FILE_NAMES.items():
        if any(fnmatch(path.name.lower(), pattern) for pattern in patterns):
            return kind

    try:
        is_small = path.stat().st_size < MAX_SCANNED_BYTES
        content = read_bytes(path) if is_small else b""
    except OSError as error:
        raise EnvironmentFault(
            f"{path} cannot be read: {error.strerror}; make it readable, so that it can be checked "
            "for secrets before it is packed"
        ) from error
    content = content.replace(b"\0", b"")  # UTF-16 has a zero beside every ASCII letter
    for kind, (parts, pattern) in COMPILED_PATTERNS.items():
        if any(part in content for part in parts) and pattern.search(content):
            return kind
    return None
