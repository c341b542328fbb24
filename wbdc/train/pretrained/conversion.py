"""Convert pickled weights to safetensors, with a record of where they come from."""

import re
import subprocess
import sys
from pathlib import Path

from wbdc.core.errors import IntegrityFault, OutOfResources, UsageFault
from wbdc.core.files import lock_output, open_regular, publish_file, publish_json
from wbdc.core.weights import (
    PICKLE_SUFFIXES,
    SAFETENSORS_SUFFIX,
    file_checksums,
    read_weights_record,
    weights_record_path,
)

UNPICKLE_SCRIPT = Path(__file__).with_name("unpickle.py")
PART_NAME = re.compile(r"-\d+-of-\d+$")  # of weights in several files
MAX_REFUSAL_CHARACTERS = 300


def find_pickle(path: Path) -> Path:
    """Return the pickle that a path names, or the only one of a folder. Raises UsageFault."""
    if path.is_file():
        pickles = [path] if path.suffix in PICKLE_SUFFIXES else []
    else:
        pickles = sorted(p for p in path.glob("*") if p.suffix in PICKLE_SUFFIXES)
    if len(pickles) > 1:
        names = ", ".join(p.name for p in pickles)
        raise UsageFault(f"{path} holds {len(pickles)} pickles: {names}; give the path of one")
    if not pickles:
        suffixes = ", ".join(PICKLE_SUFFIXES)
        raise UsageFault(f"{path} is no pickle ({suffixes}), and no folder that holds one")
    if PART_NAME.search(pickles[0].stem):
        raise UsageFault(
            f"{pickles[0]} is one of several parts, and weights must be one file; join them with "
            "transformers: AutoModel.from_pretrained(FOLDER).save_pretrained(TARGET)"
        )
    return pickles[0]


def converted_name(name: str) -> str:
    """Return the name under which `wbdc` looks for weights that were pickled as `name`."""
    start = "open_clip_" if name.startswith("open_clip_") else ""
    return f"{start}model{SAFETENSORS_SUFFIX}"


def convert_pickle(file: Path, *, license: str | None = None, source: str | None = None) -> dict:
    """Convert a pickle to the safetensors file beside it, and write its record.

    license, source: for the record, as the publisher states them. Returns the record. A finished
    conversion of the same bytes is not repeated. Raises UsageFault when the target is another file,
    IntegrityFault when the pickle holds more than tensors or is damaged, OutOfResources.
    """
    open_regular(file).close()
    target = file.with_name(converted_name(file.name))
    origin = file_checksums(file)
    with lock_output(target):
        if target.is_file():
            _check_converted(target, origin)
        else:
            publish_file(target, lambda temporary: _convert(file, temporary))
        return write_record(target, license=license, source=source, converted_from=origin)


def write_record(
    file: Path, *, license: str | None, source: str | None, converted_from: dict | None = None
) -> dict:
    """Write the record of a weights file beside it. Values that are None stay as they were."""
    before = read_weights_record(file) or {}
    record = {
        **file_checksums(file),
        "license": license or before.get("license"),
        "source": source or before.get("source"),
        "converted_from": converted_from or before.get("converted_from"),
    }
    publish_json(weights_record_path(file), record)
    return record


def _check_converted(target: Path, origin: dict) -> None:
    record = read_weights_record(target) or {}
    if record.get("converted_from") != origin:
        raise UsageFault(
            f"{target} exists and was not converted from this {origin['file']}; use it as it is, "
            "or remove it and convert again"
        )


def _convert(file: Path, temporary: Path) -> None:
    """Run the script that reads the pickle, in a process of its own."""
    # -I: without the user's packages and the current folder
    command = [sys.executable, "-I", str(UNPICKLE_SCRIPT), str(file.absolute()), str(temporary)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode < 0 or "MemoryError" in result.stderr:
        raise OutOfResources(
            f"{file} could not be converted: the process was stopped by the system, probably for "
            "lack of memory; it needs about twice the size of the file"
        )
    lines = result.stderr.strip().splitlines()
    if result.returncode:
        reason = lines[-1][:MAX_REFUSAL_CHARACTERS] if lines else "no reason was given"
        raise IntegrityFault(
            f"{file} is not converted, because it is damaged or holds more than tensors "
            f"({reason}); ask its publisher for safetensors"
        )
