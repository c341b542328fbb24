"""The pretrained weights of this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wbdc.core.weights import PICKLE_SUFFIXES, SAFETENSORS_SUFFIX, hub_cache, read_weights_record
from wbdc.train.pretrained.layouts import Layout, find_layout

FOLDER_PATTERNS = ("*", "*/*")  # NAME, or OWNER/NAME
CACHE_PREFIX = "models--"


class InstalledWeights(NamedTuple):
    """name: as a kit states it. file: of the weights. license: as recorded, or None."""

    name: str
    file: Path
    layout: Layout
    license: str | None


def list_weights(root: Path | None) -> list[InstalledWeights]:
    """List the weights in a folder and in the Hugging Face cache, by name.

    root: the folder of `--weights`. A pickle is left out when it was converted.
    """
    installed = []
    for name, folder in sorted({*_named_folders(root), *_cached_folders()}):
        for file in _weights_files(folder):
            record = read_weights_record(file) or {}
            layout = find_layout(file, name)
            installed.append(InstalledWeights(name, file, layout, record.get("license")))
    return installed


def _named_folders(root: Path | None) -> Iterator[tuple[str, Path]]:
    for pattern in FOLDER_PATTERNS if root else ():
        for folder in root.glob(pattern):
            if folder.is_dir() and not folder.name.startswith("."):
                yield str(folder.relative_to(root)), folder


def _cached_folders() -> Iterator[tuple[str, Path]]:
    for model in hub_cache().glob(f"{CACHE_PREFIX}*"):
        name = model.name.removeprefix(CACHE_PREFIX).replace("--", "/", 1)
        for folder in model.glob("snapshots/*"):
            yield name, folder


def _weights_files(folder: Path) -> list[Path]:
    """List the safetensors files of a folder; its pickles if there are none."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    tensors = [path for path in files if path.suffix == SAFETENSORS_SUFFIX]
    return tensors or [path for path in files if path.suffix in PICKLE_SUFFIXES]
