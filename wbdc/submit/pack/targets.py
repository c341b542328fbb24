"""Targets: the forms in which judges take submissions, each made of a packed folder that was proved
before.
"""

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

BEGINNING = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # the earliest time that an archive can hold: equal folders give equal archives
COMPANIONS = (
    "config.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
)  # what is read beside pretrained weights


def find_target(targets: dict[str, Target], name: str) -> Target:
    """Look up a form. Raises UsageFault."""
    if name not in targets:
        raise UsageFault(f"no target called {name!r}{suggest_name(name, list(targets))}")
    return targets[name]


def make_target(folder: Path, name: str, target: Target) -> Path:
    """Make the form `name` of a packed folder beside it and return where it lies: FOLDER-NAME,
    FOLDER.zip, or the folder itself.

    Raises UsageFault when something that is not ours lies there, EnvironmentLacks when pretrained
    weights are not on this machine.
    """
    if target.zipped:
        return _zip(folder, folder.with_name(f"{folder.name}.zip"))
    if not target.parts:
        return folder
    into = folder.with_name(f"{folder.name}-{name}")
    with publish_folder(into) as making:
        if into.exists() and not (into / MANIFEST_FILE).is_file():
            raise UsageFault(f"{into} exists and is not a submission of wbdc; choose another name")
        _copy_parts(folder, making, target)
        if target.trains:
            publish_bytes(making / "inference.sh", AFTER_TRAINING.encode())
        if target.pretrained:
            _add_pretrained(folder, making / target.pretrained)
        facts = {k: v for k, v in read_manifest(folder).items() if k not in ("files", "bound")}
        write_manifest(making, {**facts, "target": name})
    return into


def recover_targets(folder: Path, targets: dict[str, Target]) -> None:
    """Remove what killed processes left of every form of a packed folder, and move back what they
    had moved aside.
    """
    for name in ("", *(f"-{name}" for name in targets), ".zip"):
        recover_folder(folder.with_name(f"{folder.name}{name}"))


def _copy_parts(folder: Path, making: Path, target: Target) -> None:
    for path in list_files(folder):
        inner = path.relative_to(folder)
        if inner.parts[0] not in target.parts:
            continue
        to = making / Path(target.renamed.get(inner.parts[0], inner.parts[0]), *inner.parts[1:])
        publish_file(to, lambda temporary, path=path: shutil.copyfile(path, temporary))
        if path.suffix in (".sh", ".md") and len(inner.parts) == 1:
            publish_bytes(to, _said(read_text(path), target).encode())
        to.chmod(path.stat().st_mode)


def _said(text: str, target: Target) -> str:
    """Let a script speak of folders by their names in this form."""
    for old, new in target.renamed.items():
        text = text.replace(f'/{old}"', f'/{new}"').replace(f"{old}/", f"{new}/")
    return text


def _add_pretrained(folder: Path, into: Path) -> None:
    """Copy the pretrained files that the ledger names, with what is read beside them."""
    for entry in read_json(folder / "weights.json", [dict]):
        home = find_weights(entry["name"], (entry["file"],))
        for name in (entry["file"], *COMPANIONS):
            if (home / name).is_file():
                publish_file(
                    into / entry["name"] / name,
                    lambda temporary, path=home / name: shutil.copyfile(path, temporary),
                )


def _zip(folder: Path, into: Path) -> Path:
    """Write all files into one archive, stored in a fixed order and without times: equal folders
    give equal bytes.
    """

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for path in list_files(folder):
                if path.name == RECEIPT_FILE and path.parent == folder:
                    continue
                entry = zipfile.ZipInfo(str(path.relative_to(folder)), BEGINNING)
                entry.external_attr = (0o100755 if path.stat().st_mode & 0o100 else 0o100644) << 16
                entry.compress_type = (
                    zipfile.ZIP_STORED if path.suffix == ".safetensors" else zipfile.ZIP_DEFLATED
                )
                archive.writestr(entry, read_bytes(path))

    publish_file(into, write)
    return into
