"""Verify a packed folder, byte by byte, before anything of it runs."""

import os
from pathlib import Path

from wbdc.competitions import CONTEST_FOLDER, Competition, open_competition
from wbdc.core.errors import IntegrityBroken
from wbdc.core.files import file_sha256, read_json
from wbdc.submit.check.manifest import MANIFEST_FILE, RECEIPT_FILE, read_manifest
from wbdc.submit.timing.verdict import CODES

VERDICTS = tuple(CODES)  # what a receipt may hold


def verify_package(folder: Path) -> dict:
    """Compare a packed folder with its manifest; nothing of it is imported.

    Returns {"bound", "competition", "precision", "members", "files": count, "bytes": sum,
    "latency": the receipt or None}.
    Raises IntegrityBroken, naming up to ten files, when one is missing, changed, extra or a link,
    or when latency.json is of other bytes.
    """
    manifest = check_files(folder)
    receipt = _read_receipt(folder / RECEIPT_FILE, manifest["bound"])
    sizes = [entry["bytes"] for entry in manifest["files"].values()]
    said = {k: v for k, v in manifest.items() if k != "files"}
    return {**said, "files": len(sizes), "bytes": sum(sizes), "latency": receipt}


def _read_receipt(path: Path, bound: str) -> dict | None:
    """Read the receipt of the time check; None without one. Raises IntegrityBroken."""
    if not os.path.lexists(path):
        return None
    again = "measure this folder with `wbdc submit --check-latency`"
    try:
        receipt = read_json(path) if path.is_file() and not path.is_symlink() else None
    except RecursionError as error:
        raise IntegrityBroken(f"{path} is nested too deeply; {again}") from error
    if not isinstance(receipt, dict):
        raise IntegrityBroken(f"{path} is no receipt of a time check; {again}")
    if receipt.get("bound") != bound:
        raise IntegrityBroken(f"{path} belongs to other bytes; {again}")
    if receipt.get("verdict") not in VERDICTS:
        raise IntegrityBroken(f"{path} holds none of {', '.join(VERDICTS)}; {again}")
    return receipt


def check_files(folder: Path) -> dict:
    """Compare every file with the manifest and return it; a receipt, if any, is left aside. Raises
    IntegrityBroken.
    """
    if not folder.is_dir():
        raise IntegrityBroken(f"{folder} is no folder")
    manifest = read_manifest(folder)
    found, links = _walk(folder)
    files = manifest["files"]
    wrong = [f"{name} (a link)" for name in links]
    wrong += [f"{name} (missing)" for name in files if name not in found and name not in links]
    wrong += [
        f"{name} (extra)" for name in sorted(found - set(files) - {MANIFEST_FILE, RECEIPT_FILE})
    ]
    wrong += [
        f"{name} (changed)"
        for name in files
        if name in found and not _same(folder / name, files[name])
    ]
    if wrong:
        raise IntegrityBroken(
            f"{folder} is not what was packed, {len(wrong)} differences: {', '.join(wrong[:10])}; pack again"
        )
    return manifest


def packed_contest(folder: Path, manifest: dict) -> Competition:
    """Open the competition of a packed folder whose files were compared with its manifest. Raises
    UsageFault.
    """
    return open_competition(manifest["competition"], folder / CONTEST_FOLDER)


def _same(path: Path, entry: dict) -> bool:
    return path.stat().st_size == entry["bytes"] and file_sha256(path) == entry["sha256"]


def _walk(folder: Path) -> tuple[set[str], list[str]]:
    """List what lies below a folder, by relative path: regular files, and all that is neither file
    nor folder (links, pipes).
    """
    found, odd = set(), []
    for place, folders, files in os.walk(folder):
        for path in (Path(place) / name for name in (*folders, *files)):
            name = str(path.relative_to(folder))
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                odd.append(name)
            elif path.is_file():
                found.add(name)
    return found, sorted(odd)
