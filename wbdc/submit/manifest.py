"""The manifest: hash and size of every file of a packed folder, and one hash that stands for them all."""

import hashlib
import json
from pathlib import Path

from wbdc.core.errors import IntegrityBroken
from wbdc.core.files import contents, publish_json, read_json, sha256

MANIFEST, RECEIPT = "manifest.json", "latency.json"


def write_manifest(folder: Path, facts: dict) -> dict:
    """Publish the manifest of a folder and return it: `facts`, {"files": {path: {"sha256", "bytes"}}, "bound": hash of all that}."""
    files = {str(p.relative_to(folder)): {"sha256": sha256(p), "bytes": p.stat().st_size} for p in contents(folder)}
    files = {name: entry for name, entry in files.items() if name not in (MANIFEST, RECEIPT)}
    manifest = {**facts, "files": files}
    manifest["bound"] = bound(manifest)
    publish_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> dict:
    """Read a manifest. Raises IntegrityBroken when it is absent, damaged or not what was written."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict) or manifest.get("bound") != bound(manifest):
        raise IntegrityBroken(f"{folder / MANIFEST} was changed after packing; pack again")
    return manifest


def bound(manifest: dict) -> str:
    """Hash what a manifest says: the name that receipts are bound to."""
    said = {k: v for k, v in manifest.items() if k != "bound"}
    return hashlib.sha256(json.dumps(said, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
