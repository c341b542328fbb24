"""Targets: the forms in which judges take submissions, each made from a packed folder."""

import shutil
import zipfile
from pathlib import Path

from wbdc.competitions import Target
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.files import (
    list_files,
    publish_bytes,
    publish_file,
    read_bytes,
    read_json,
    read_text,
)
from wbdc.core.folders import publish_folder, recover_folder
from wbdc.core.weights import find_weights
from wbdc.submit.check.manifest import MANIFEST_FILE, RECEIPT_FILE, read_manifest, write_manifest
from wbdc.submit.pack.scripts import AFTER_TRAINING

ARCHIVE_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest of ZIP; equal folders give equal archives
# files that are read beside pretrained weights
COMPANION_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json")


def find_target(targets: dict[str, Target], name: str) -> Target:
    """Return a target by its name. Raises UsageFault."""
    if name not in targets:
        raise UsageFault(f"no target called {name!r}{suggest_name(name, list(targets))}")
    return targets[name]


def make_target(folder: Path, name: str, target: Target) -> Path:
    """Make the target `name` of a packed folder beside it, and return its path: FOLDER-NAME,
    FOLDER.zip, or the folder itself.

    Raises UsageFault when another folder has that path, EnvironmentFault when pretrained weights
    are not on this machine.
    """
    if target.zipped:
        return _zip_package(folder, folder.with_name(f"{folder.name}.zip"))
    if not target.parts:
        return folder

    path = folder.with_name(f"{folder.name}-{name}")
    with publish_folder(path) as temporary:
        if path.exists() and not (path / MANIFEST_FILE).is_file():
            raise UsageFault(f"{path} exists and is not a submission of wbdc; choose another name")
        _copy_parts(folder, temporary, target)
        if target.trains:
            publish_bytes(temporary / "inference.sh", AFTER_TRAINING.encode())
        if target.pretrained:
            _add_pretrained(folder, temporary / target.pretrained)
        manifest = read_manifest(folder)
        facts = {
            key: value for key, value in manifest.items() if key not in ("files", "package_sha256")
        }
        write_manifest(temporary, {**facts, "target": name})
    return path


def recover_targets(folder: Path, targets: dict[str, Target]) -> None:
    """Clean up after killed processes: for every form of a packed folder, remove temporary files
    and move back what was moved aside.
    """
    for suffix in ("", *(f"-{name}" for name in targets), ".zip"):
        recover_folder(folder.with_name(f"{folder.name}{suffix}"))


def _copy_parts(folder: Path, into: Path, target: Target) -> None:
    for path in list_files(folder):
        part, *inner = path.relative_to(folder).parts
        if part not in target.parts:
            continue
        copy = into / Path(target.renamed.get(part, part), *inner)
        publish_file(copy, lambda temporary, path=path: shutil.copyfile(path, temporary))
        if path.suffix in (".sh", ".md") and not inner:
            publish_bytes(copy, _rename_folders(read_text(path), target).encode())
        copy.chmod(path.stat().st_mode)


def _rename_folders(text: str, target: Target) -> str:
    """Replace the names of folders in a script by their names in the target."""
    for old, new in target.renamed.items():
        text = text.replace(f'/{old}"', f'/{new}"').replace(f"{old}/", f"{new}/")
    return text


def _add_pretrained(folder: Path, into: Path) -> None:
    """Copy the pretrained files that weights.json lists, with the files read beside them."""
    for entry in read_json(folder / "weights.json", [dict]):
        home = find_weights(entry["name"], (entry["file"],))
        for name in (entry["file"], *COMPANION_FILES):
            if (home / name).is_file():
                publish_file(
                    into / entry["name"] / name,
                    lambda temporary, path=home / name: shutil.copyfile(path, temporary),
                )


def _zip_package(folder: Path, path: Path) -> Path:
    """Write all files into one archive, in a fixed order and without times.

    Equal folders give equal bytes. The receipt of the time check is left out.
    """

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for file in list_files(folder):
                if file == folder / RECEIPT_FILE:
                    continue
                entry = zipfile.ZipInfo(str(file.relative_to(folder)), ARCHIVE_TIME)
                is_executable = file.stat().st_mode & 0o100
                entry.external_attr = (0o100755 if is_executable else 0o100644) << 16
                is_compressed = file.suffix != ".safetensors"
                entry.compress_type = zipfile.ZIP_DEFLATED if is_compressed else zipfile.ZIP_STORED
                archive.writestr(entry, read_bytes(file))

    publish_file(path, write)
    return path
