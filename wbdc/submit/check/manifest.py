"""The manifest: hash and size of every file of a packed folder, and one hash that stands for them
all.
"""

import hashlib
import json
from pathlib import Path

from wbdc.core.errors import IntegrityBroken
from wbdc.core.files import file_sha256, list_files, publish_json, read_json

MANIFEST, RECEIPT = "manifest.json", "latency.json"


def write_manifest(folder: Path, facts: dict) -> dict:
    """Publish the manifest of a folder and return it: `facts`, {"files": {path: {"sha256",
    "bytes"}}, "bound": hash of all that}.
    """
    files = {
        str(p.relative_to(folder)): {"sha256": file_sha256(p), "bytes": p.stat().st_size}
        for p in list_files(folder)
    }
    files = {name: entry for name, entry in files.items() if name not in (MANIFEST, RECEIPT)}
    manifest = {**facts, "files": files}
    manifest["bound"] = manifest_hash(manifest)
    publish_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> dict:
    """Read a manifest. Raises IntegrityBroken when it is absent, damaged or not what was written."""
    path = folder / MANIFEST
    if path.exists() and not path.is_file():
        raise IntegrityBroken(f"{path} is not a regular file; pack again")
    try:
        manifest = read_json(path)
        if isinstance(manifest, dict) and _is_manifest(manifest):
            return manifest
    except RecursionError as error:
        raise IntegrityBroken(f"{path} is nested too deeply; pack again") from error
    raise IntegrityBroken(f"{path} was changed after packing; pack again")


def _is_manifest(manifest: dict) -> bool:
    """Tell whether a manifest has the form that `write_manifest` gives, and its own hash."""
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(map(_is_entry, files.values())):
        return False
    named = ("competition", "precision")
    if not all(isinstance(manifest.get(name), str) for name in named):
        return False
    return isinstance(manifest.get("members"), list) and manifest.get("bound") == manifest_hash(
        manifest
    )


def _is_entry(entry: object) -> bool:
    known = isinstance(entry, dict) and entry.keys() >= {"sha256", "bytes"}
    return known and isinstance(entry["sha256"], str) and isinstance(entry["bytes"], int)


def manifest_hash(manifest: dict) -> str:
    """Hash what a manifest says: the name that receipts are bound to."""
    said = {k: v for k, v in manifest.items() if k != "bound"}
    return hashlib.sha256(
        json.dumps(said, ensure_ascii=False, sort_keys=True).encode(errors="backslashreplace")
    ).hexdigest()
