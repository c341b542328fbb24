"""Pretrained weights: found by their usual names in a local folder or the Hugging Face cache, never
downloaded, never unpickled.
"""

import hashlib
import os
import shlex
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from wbdc.core.errors import EnvironmentLacks, IntegrityBroken
from wbdc.core.files import open_regular

WEIGHTS_VARIABLE = "WBDC_WEIGHTS"
CONVERT_COMMAND = (
    "python -c 'import sys, torch; from safetensors.torch import save_file as save; w = torch.load(sys.argv[1], weights_only=True); "
    "save({k: t.clone().contiguous() for k, t in w.items()}, sys.argv[2])'"
)


def find_weights(name: str, files: tuple[str, ...], beside: tuple[str, ...] = ()) -> Path:
    """Find the folder of the weights called `name` (such as "hfl/chinese-macbert-base") that holds
    one of `files`.

    beside: other files that belong there, to be named when it is missing. Looks in
    $WBDC_WEIGHTS/NAME, in $WBDC_WEIGHTS/<last part of NAME>, then in the Hugging Face cache.
    Raises EnvironmentLacks, saying what to put where.
    """
    places = (
        [Path(os.environ[WEIGHTS_VARIABLE]) / part for part in (name, name.split("/")[-1])]
        if os.environ.get(WEIGHTS_VARIABLE)
        else []
    )
    places += _cached_snapshots(name)
    for place in places:
        if any((place / file).is_file() for file in files):
            return place
    pickled = [
        p
        for place in places
        if place.is_dir()
        for p in place.iterdir()
        if p.suffix in (".bin", ".pt", ".pth")
    ]
    if pickled:
        wanted = pickled[0].with_name(files[0])
        raise EnvironmentLacks(
            f"{pickled[0]} is a pickle, which wbdc never opens; convert it to {files[0]} once, in a place you trust: "
            f"{CONVERT_COMMAND} {shlex.quote(str(pickled[0]))} {shlex.quote(str(wanted))}"
        )
    known = os.environ.get(WEIGHTS_VARIABLE)
    where = f"{known}/{name}" if known else f"FOLDER/{name} and give --weights FOLDER"
    raise EnvironmentLacks(
        f"the weights {name!r} are not on this machine: put {' or '.join(files)}{''.join(f', {b}' for b in beside)} of "
        f"https://huggingface.co/{name} into {where} (its page states licence and checksum), or run the same recipe from random weights with --tiny"
    )


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Load a safetensors file. Raises NotRegularFile for a pipe, which safetensors would wait for."""
    open_regular(path).close()
    return load_file(path)


def open_weights(path: Path) -> safe_open:
    """Open a safetensors file, to load its tensors one by one. Raises as `load_weights` does."""
    open_regular(path).close()
    return safe_open(path, "pt")


@lru_cache
def describe_weights(name: str, file: Path) -> dict:
    """Describe a file of pretrained weights, for the ledger that contests ask for: {"name", "file",
    "bytes", "md5", "sha256"}.
    """
    sums = [hashlib.md5(usedforsecurity=False), hashlib.sha256()]
    with open_regular(file) as stream:
        while part := stream.read(2**20):
            for made in sums:
                made.update(part)
    return {
        "name": name,
        "file": file.name,
        "bytes": file.stat().st_size,
        "md5": sums[0].hexdigest(),
        "sha256": sums[1].hexdigest(),
    }


def weights_fingerprint(weights: dict[str, torch.Tensor]) -> str:
    """Hash tensors, by their names in order and all their bytes (SHA-256)."""
    made = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        made.update(name.encode())
        made.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return made.hexdigest()


def select_tensors(
    weights: dict, wanted: dict, source: Path, prefix: str = ""
) -> tuple[dict, list[str]]:
    """Take the tensors that a network wants, by name and shape, out of a larger file; return them
    with the names left behind.

    wanted: the network's own tensors by name. Raises IntegrityBroken, naming up to ten, when one is
    missing or has another shape.
    """
    taken = {name: weights[prefix + name] for name in wanted if prefix + name in weights}
    missing = [prefix + name for name in sorted(wanted) if name not in taken]
    if missing:
        raise IntegrityBroken(
            f"{source} lacks {len(missing)} of {len(wanted)} tensors: {', '.join(missing[:10])}"
        )
    odd = [
        f"{prefix}{n} {tuple(t.shape)}, not {tuple(wanted[n].shape)}"
        for n, t in sorted(taken.items())
        if t.shape != wanted[n].shape
    ]
    if odd:
        raise IntegrityBroken(
            f"{source} holds {len(odd)} tensors of another shape: {', '.join(odd[:10])}"
        )
    return taken, sorted(set(weights) - {prefix + name for name in wanted})


def _cached_snapshots(name: str) -> list[Path]:
    """List the snapshots of a model in the Hugging Face cache (HF_HOME is honoured)."""
    hub = Path(
        os.environ.get("HF_HUB_CACHE")
        or Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface") / "hub"
    )
    return sorted((hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*"))
