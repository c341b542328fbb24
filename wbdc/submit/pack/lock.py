"""requirements.lock: all packages that a submission needs, directly or not, with the SHA-256 of
their wheels; and those wheels, for a judge without network access.
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

from wbdc.core.errors import EnvironmentFault, IntegrityFault, UsageFault
from wbdc.core.files import file_sha256, read_text

HASH_PATTERN = re.compile(r"--hash=sha256:([0-9a-f]{64})")
PIP_REPORT_VERSION = "1"  # of pip's installation report, since pip 23.0
PIP_REPORT_OPTIONS = (
    "--dry-run",
    "--ignore-installed",
    "--no-deps",
    *("--only-binary", ":all:"),
    "--quiet",
    *("--report", "-"),
)
MAX_LISTED_WHEELS = 10  # in an error message


class Distribution(NamedTuple):
    """An installed package.

    name: as in its metadata. version: with the local part, for example "2.6.0+cu124". needs:
    canonical names of the packages that it requires on this machine.
    """

    name: str
    version: str
    needs: tuple[str, ...]


def dependency_closure(names: Collection[str]) -> list[Distribution]:
    """List packages and everything that they require, as installed here, by canonical name.

    names: requirements, for example "numpy", "torch==2.6.0" or "ray[data]". An extra counts only
    where a package requires it; markers are evaluated for this machine.

    Raises UsageFault for text that is not a requirement, EnvironmentFault for a package that is
    missing or has another version than required.
    """
    queue = [(_parse_requirement(name), "the submission") for name in names]
    extras: dict[str, set[str]] = {}
    closure: dict[str, Distribution] = {}
    while queue:
        requirement, parent = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in closure and requirement.extras <= extras[name]:
            _check_version(requirement, closure[name].version, parent)
            continue

        extras[name] = extras.get(name, set()) | requirement.extras
        installed = _find_installed(requirement, parent)
        facts = installed.metadata  # parsed at every access
        _check_version(requirement, facts["Version"], parent)
        children = _required_packages(installed, extras[name])
        closure[name] = Distribution(
            name=facts["Name"],
            version=facts["Version"],
            needs=tuple(sorted({canonicalize_name(child.name) for child in children} - {name})),
        )
        queue += [(child, facts["Name"]) for child in children]
    return [closure[name] for name in sorted(closure)]


def lock_requirements(requirements: str) -> str:
    """Write a requirements.lock for this platform: sorted lines "name==version --hash=sha256:...".

    requirements: text of a requirements.txt. The hashes are those of the wheels in pip's package
    index; source archives are not used, because building them needs further tools.

    Raises what `dependency_closure` raises, and EnvironmentFault when pip finds no index, or no
    wheel with a hash.
    """
    lines = [line.split("#")[0].strip() for line in requirements.splitlines()]
    closure = dependency_closure([line for line in lines if line])
    if not closure:
        return ""

    pins = [f"{package.name}=={package.version}" for package in closure]
    wheels = _parse_report(_run_pip("install", *PIP_REPORT_OPTIONS, *pins))
    if missing := [p.name for p in closure if canonicalize_name(p.name) not in wheels]:
        raise EnvironmentFault(
            f"pip reports no wheel with a SHA-256 for {', '.join(missing)}; "
            "set PIP_EXTRA_INDEX_URL to an index that has it and run the command again"
        )
    return "".join(
        "{}=={} --hash=sha256:{}\n".format(package.name, *wheels[canonicalize_name(package.name)])
        for package in closure
    )


def download_wheels(lock_file: Path, into: Path) -> list[Path]:
    """Download the wheels of a lock file into a folder and list them; present ones are reused.

    Install from it offline with `pip install --no-index --find-links INTO --require-hashes -r
    LOCK_FILE`. Raises UsageFault for a lock file without hashes or a folder that holds other files,
    EnvironmentFault when pip finds no index, IntegrityFault for a wheel that differs from its
    hash.
    """
    hashes = set(HASH_PATTERN.findall(read_text(lock_file))) if lock_file.is_file() else set()
    if not hashes:
        raise UsageFault(f"{lock_file} holds no hash; create it with `wbdc submit --lock`")
    if unknown := [path.name for path in _wheel_files(into) if file_sha256(path) not in hashes]:
        raise UsageFault(
            f"{into} holds files that the lock does not list: "
            f"{', '.join(unknown[:MAX_LISTED_WHEELS])}; choose an empty folder"
        )
    options = ("--require-hashes", "--no-deps", "--quiet")
    _run_pip("download", *options, "-d", str(into), "-r", str(lock_file))
    return _wheel_files(into)


def _parse_requirement(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise UsageFault(
            f"{text!r} is not a requirement, for example 'numpy==2.1.0'; correct the line"
        ) from error


def _find_installed(requirement: Requirement, parent: str) -> metadata.Distribution:
    try:
        return metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError as error:
        raise EnvironmentFault(
            f"{parent} needs {requirement}, which is not installed; install it with pip"
        ) from error


def _check_version(requirement: Requirement, version: str, parent: str) -> None:
    if not requirement.specifier.contains(version, prereleases=True):
        raise EnvironmentFault(
            f"{parent} needs {requirement}, but {version} is installed; "
            "install the required version with pip"
        )


def _required_packages(installed: metadata.Distribution, extras: set[str]) -> list[Requirement]:
    """List what a package requires on this machine, for itself and for its extras."""
    environments = [{"extra": extra} for extra in ("", *sorted(extras))]
    requirements = [Requirement(line) for line in installed.requires or []]
    return [
        requirement
        for requirement in requirements
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments))
    ]


def _parse_report(text: str) -> dict[str, tuple[str, str]]:
    """Read pip's installation report: {canonical name: (version, SHA-256)} of hashed archives."""
    report = json.loads(text)
    if report.get("version") != PIP_REPORT_VERSION:
        raise EnvironmentFault(
            f"pip's report has version {report.get('version')}, not {PIP_REPORT_VERSION}; "
            "install pip 23 or newer"
        )
    wheels = {}
    for item in report["install"]:
        archive = item["download_info"].get("archive_info", {})
        if digest := archive.get("hashes", {}).get("sha256"):
            name = canonicalize_name(item["metadata"]["name"])
            wheels[name] = item["metadata"]["version"], digest
    return wheels


def _run_pip(*arguments: str) -> str:
    """Run the pip of this Python and return its output.

    Raises IntegrityFault for a wheel that differs from its hash, EnvironmentFault with pip's last
    line otherwise.
    """
    command = [sys.executable, "-m", "pip", *arguments, "--no-input"]
    command.append("--disable-pip-version-check")
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise EnvironmentFault(
            f"{sys.executable} cannot be run: {error.strerror}; repair this Python installation"
        ) from error

    if "DO NOT MATCH THE HASHES" in result.stderr:
        raise IntegrityFault(
            "the package index has a wheel whose hash differs from the lock; "
            "write the lock again if you trust that index"
        )
    if result.returncode:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR: ")] or lines or ["no message"]
        raise EnvironmentFault(
            f"pip got nothing from its package indexes ({errors[-1].removeprefix('ERROR: ')}); "
            "connect to the network, or set PIP_EXTRA_INDEX_URL to an index that has the package"
        )
    return result.stdout


def _wheel_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
