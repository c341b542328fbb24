"""The manifest: hash and size of every file of a packed folder, and one hash over all of them."""

import hashlib
import json
from pathlib import Path

from wbdc.core.errors import IntegrityFault
from wbdc.core.files import file_sha256, list_files, publish_json, read_json

MANIFEST_FILE = "manifest.json"
RECEIPT_FILE = "latency.json"  # result of the time check, written after packing
REPORT_FILE = "report.json"  # facts of the README for programs; older packages lack it


def write_manifest(folder: Path, facts: dict) -> dict:
    """Publish the manifest of a folder and return it.

    It holds `facts`, {"files": {path: {"sha256", "bytes"}}} and {"package_sha256": hash of all
    that}.
    """
    files = {
        str(path.relative_to(folder)): {
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
        }
        for path in list_files(folder)
    }
    unlisted = (MANIFEST_FILE, RECEIPT_FILE)
    files = {name: entry for name, entry in files.items() if name not in unlisted}
    manifest = {**facts, "files": files}
    manifest["package_sha256"] = manifest_hash(manifest)
    publish_json(folder / MANIFEST_FILE, manifest)
    return manifest


def read_manifest(folder: Path) -> dict:
    """Read a manifest. Raises IntegrityFault when it is missing, damaged or was changed."""
    path = folder / MANIFEST_FILE
    if path.exists() and not path.is_file():
        raise IntegrityFault(f"{path} is not a regular file; pack again")
    try:
        manifest = read_json(path)
        if isinstance(manifest, dict) and _is_manifest(manifest):
            return manifest
    except RecursionError as error:
        raise IntegrityFault(f"{path} is nested too deeply; pack again") from error
    raise IntegrityFault(f"{path} was changed after packing; pack again")


def manifest_hash(manifest: dict) -> str:
    """Hash the content of a manifest; a receipt stores this hash of the package that it timed."""
    content = {key: value for key, value in manifest.items() if key != "package_sha256"}
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def _is_manifest(manifest: dict) -> bool:
    """Return whether a manifest has the form that `write_manifest` gives, and its own hash."""
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(map(_is_entry, files.values())):
        return False
    texts = (manifest.get("competition"), manifest.get("precision"))
    if not all(isinstance(text, str) for text in texts):
        return False
    has_members = isinstance(manifest.get("members"), list)
    return has_members and manifest.get("package_sha256") == manifest_hash(manifest)


def _is_entry(entry: object) -> bool:
    has_keys = isinstance(entry, dict) and entry.keys() >= {"sha256", "bytes"}
    return has_keys and isinstance(entry["sha256"], str) and isinstance(entry["bytes"], int)
