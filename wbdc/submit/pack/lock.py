"""The lock: all that a submission needs, in turn, with the SHA-256 of the archives; and those
archives, for a judge without a network.
"""

import json
import re
import subprocess
import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from wbdc.core.errors import EnvironmentLacks, IntegrityBroken, UsageFault
from wbdc.core.files import file_sha256, read_text

HASH_PATTERN = re.compile(r"--hash=sha256:([0-9a-f]{64})")
PIP_REPORT_VERSION = "1"  # the version of pip's installation report, since pip 23.0


class Distribution(NamedTuple):
    """An installed package. name: as it calls itself; version: with its local part, such as
    "2.6.0+cu124"; needs: canonical names of what it asks for here.
    """

    name: str
    version: str
    needs: tuple[str, ...]


def dependency_closure(names: Collection[str]) -> list[Distribution]:
    """List packages and all that they need in turn, as installed here, sorted by canonical name.

    names: requirements such as "numpy", "torch==2.6.0" or "ray[data]"; an extra counts only where
    somebody asks for it, a marker as this machine answers it.
    Raises UsageFault for what is no requirement, EnvironmentLacks for a package that is absent or
    of another version than is asked for.
    """
    waiting, extras, found = [(_read(name), "the submission") for name in names], {}, {}
    while waiting:
        wanted, by = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in found and wanted.extras <= extras[name]:
            _check(wanted, found[name].version, by)
            continue
        extras[name] = extras.get(name, set()) | wanted.extras
        installed = _installed(wanted, by)
        needed = _needed(installed, extras[name])
        found[name] = Distribution(
            installed.metadata["Name"],
            installed.version,
            tuple(sorted({canonicalize_name(n.name) for n in needed} - {name})),
        )
        waiting += [(n, installed.metadata["Name"]) for n in needed]
    return [found[name] for name in sorted(found)]


def lock_requirements(requirements: str, *, python: str = sys.executable) -> str:
    """Write a requirements.lock for this platform: "name==version --hash=sha256:..." lines, sorted,
    for the whole closure.

    requirements: the text of a requirements.txt. python: the interpreter whose pip asks its package
    index. Only wheels count: sources need tools to build them.
    Raises what `closure` does, and EnvironmentLacks when pip finds no index, or no wheel with a
    hash.
    """
    lines = [line.split("#")[0].strip() for line in requirements.splitlines()]
    wanted = dependency_closure([line for line in lines if line])
    if not wanted:
        return ""
    options = [
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--quiet",
        "--report",
        "-",
    ]
    found = _archives(
        _pip(python, "install", *options, *(f"{d.name}=={d.version}" for d in wanted))
    )
    if missing := [d.name for d in wanted if canonicalize_name(d.name) not in found]:
        raise EnvironmentLacks(
            f"pip names no archive with a SHA-256 for {', '.join(missing)}; name an index that has its wheel in PIP_EXTRA_INDEX_URL and try again"
        )
    return "".join(
        "{}=={} --hash=sha256:{}\n".format(d.name, *found[canonicalize_name(d.name)])
        for d in wanted
    )


def download_wheels(lock_file: Path, into: Path, *, python: str = sys.executable) -> list[Path]:
    """Download the archives of a lock into a folder and list them; what is there already is not
    asked for again.

    Install from it offline with `pip install --no-index --find-links INTO --require-hashes -r
    LOCK`. Raises UsageFault for a lock without hashes
    or a folder that holds something else, EnvironmentLacks when pip finds no index, IntegrityBroken
    for an archive that differs from its hash.
    """
    known = set(HASH_PATTERN.findall(read_text(lock_file))) if lock_file.is_file() else set()
    if not known:
        raise UsageFault(f"{lock_file} holds no hash; lock the requirements first")
    if odd := [path.name for path in _files(into) if file_sha256(path) not in known]:
        raise UsageFault(
            f"{into} holds {', '.join(odd[:10])}, which the lock does not name; choose an empty folder"
        )
    _pip(
        python,
        "download",
        "--require-hashes",
        "--no-deps",
        "--quiet",
        "-d",
        str(into),
        "-r",
        str(lock_file),
    )
    return _files(into)


def _read(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise UsageFault(
            f"{text!r} is no requirement such as 'numpy==2.1.0'; correct the line"
        ) from error


def _installed(wanted: Requirement, by: str) -> metadata.Distribution:
    try:
        installed = metadata.distribution(wanted.name)
    except metadata.PackageNotFoundError as error:
        raise EnvironmentLacks(
            f"{by} needs {wanted}, which is not installed; install it and try again"
        ) from error
    _check(wanted, installed.version, by)
    return installed


def _check(wanted: Requirement, version: str, by: str) -> None:
    if not wanted.specifier.contains(version, prereleases=True):
        raise EnvironmentLacks(
            f"{by} needs {wanted}, but {version} is installed; install what it needs and try again"
        )


def _needed(installed: metadata.Distribution, extras: set[str]) -> list[Requirement]:
    """Read what a package asks for on this machine, its own and that of the extras."""
    asked = [Requirement(line) for line in installed.requires or []]
    return [
        r
        for r in asked
        if r.marker is None
        or any(r.marker.evaluate({"extra": extra}) for extra in ("", *sorted(extras)))
    ]


def _archives(said: str) -> dict[str, tuple[str, str]]:
    """Read pip's installation report: canonical name -> (version, SHA-256), without those that have
    no hash.
    """
    report = json.loads(said)
    if report.get("version") != PIP_REPORT_VERSION:
        raise EnvironmentLacks(
            f"pip's report has version {report.get('version')}, not {PIP_REPORT_VERSION}; install pip 23 or newer"
        )
    found = {}
    for item in report["install"]:
        if digest := item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256"):
            found[canonicalize_name(item["metadata"]["name"])] = item["metadata"]["version"], digest
    return found


def _pip(python: str, *asked: str) -> str:
    """Run pip and return what it says. Raises IntegrityBroken for an archive that differs from its
    hash, EnvironmentLacks with pip's last words otherwise.
    """
    try:
        command = [python, "-m", "pip", *asked, "--no-input", "--disable-pip-version-check"]
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise EnvironmentLacks(
            f"{python} cannot be run: {error.strerror}; name another Python"
        ) from error
    if "DO NOT MATCH THE HASHES" in ran.stderr:
        raise IntegrityBroken(
            "an index gives an archive whose hash is not the lock's; lock the requirements again if you trust that index"
        )
    if ran.returncode:
        lines = [line.strip() for line in ran.stderr.splitlines() if line.strip()] or [
            "it said nothing"
        ]
        said = [line for line in lines if line.startswith("ERROR: ")] or lines
        raise EnvironmentLacks(
            f"pip got nothing from its package indexes ({said[-1].removeprefix('ERROR: ')}); "
            "connect, or name an index that has it in PIP_EXTRA_INDEX_URL, and try again"
        )
    return ran.stdout


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
