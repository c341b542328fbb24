"""Verify a packed folder, byte by byte, without running anything in it."""

import os
from pathlib import Path

from wbdc.competitions import CONTEST_FOLDER, Competition, open_competition
from wbdc.core.errors import IntegrityFault
from wbdc.core.files import file_sha256, read_json
from wbdc.submit.check.manifest import MANIFEST_FILE, RECEIPT_FILE, read_manifest
from wbdc.submit.timing.verdict import CODES

VERDICTS = tuple(CODES)  # that a receipt may hold
MAX_LISTED_DIFFERENCES = 10  # in an error message


def verify_package(folder: Path) -> dict:
    """Compare a packed folder with its manifest, and its time check with the package.

    Returns {"package_sha256", "competition", "precision", "members", "files": count, "bytes": sum,
    "latency": receipt of the time check or None}. Raises IntegrityFault, naming up to ten files,
    when one is missing, changed, extra or a link, or when latency.json belongs to another package.
    """
    manifest = check_files(folder)
    receipt = _read_receipt(folder / RECEIPT_FILE, manifest["package_sha256"])
    sizes = [entry["bytes"] for entry in manifest["files"].values()]
    summary = {key: value for key, value in manifest.items() if key != "files"}
    return {**summary, "files": len(sizes), "bytes": sum(sizes), "latency": receipt}


def check_files(folder: Path) -> dict:
    """Compare every file with the manifest and return it; a receipt is not read.

    Raises IntegrityFault.
    """
    if not folder.is_dir():
        raise IntegrityFault(f"{folder} is not a folder; give the folder of a submission")
    manifest = read_manifest(folder)
    files = manifest["files"]
    present, irregular = _list_entries(folder)

    extra = sorted(present - set(files) - {MANIFEST_FILE, RECEIPT_FILE})
    missing = [name for name in files if name not in present and name not in irregular]
    changed = [
        name for name in files if name in present and not _is_same(folder / name, files[name])
    ]
    differences = [
        *(f"{name} (a link)" for name in irregular),
        *(f"{name} (missing)" for name in missing),
        *(f"{name} (extra)" for name in extra),
        *(f"{name} (changed)" for name in changed),
    ]
    if differences:
        raise IntegrityFault(
            f"{folder} is not what was packed, {len(differences)} differences: "
            f"{', '.join(differences[:MAX_LISTED_DIFFERENCES])}; pack again"
        )
    return manifest


def packed_contest(folder: Path, manifest: dict) -> Competition:
    """Open the competition of a packed folder that was verified. Raises UsageFault."""
    return open_competition(manifest["competition"], folder / CONTEST_FOLDER)


def _read_receipt(path: Path, package_sha256: str) -> dict | None:
    """Read the receipt of the time check; None without one. Raises IntegrityFault."""
    if not os.path.lexists(path):
        return None
    fix = "time this submission again with `wbdc submit --check-latency`"
    try:
        receipt = read_json(path) if path.is_file() and not path.is_symlink() else None
    except RecursionError as error:
        raise IntegrityFault(f"{path} is nested too deeply; {fix}") from error

    if not isinstance(receipt, dict):
        raise IntegrityFault(f"{path} is not the result of a time check; {fix}")
    if receipt.get("package_sha256") != package_sha256:
        raise IntegrityFault(f"{path} belongs to another package; {fix}")
    if receipt.get("verdict") not in VERDICTS:
        raise IntegrityFault(f"{path} states none of {', '.join(VERDICTS)}; {fix}")
    return receipt


def _is_same(path: Path, entry: dict) -> bool:
    return path.stat().st_size == entry["bytes"] and file_sha256(path) == entry["sha256"]


def _list_entries(folder: Path) -> tuple[set[str], list[str]]:
    """List the relative paths of regular files below a folder, and of everything that is neither
    file nor folder (links, pipes), sorted.
    """
    regular: set[str] = set()
    irregular: list[str] = []
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent) / name for name in (*folders, *files)):
            name = str(path.relative_to(folder))
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                irregular.append(name)
            elif path.is_file():
                regular.add(name)
    return regular, sorted(irregular)
