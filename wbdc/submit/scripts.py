"""The scripts of a packed folder, as text: what the judge calls, and what they stand on. @NAME@ is filled in by `package`."""

# Standard library only until the checks are done: nothing of a damaged package is imported.
MAIN = '''\
"""Answer the test split with the models beside this file: python3 -I main.py --data DIR --out FILE (--help lists the rest)."""

import time

BEGAN = time.perf_counter()  # first of all: imports belong to the time that the judge counts

import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HOME = Path(__file__).resolve().parent


def differs(item: tuple[str, dict]) -> bool:
    """Tell whether a file is missing or not what was packed: a flipped bit in weights would load without a word."""
    try:
        with (HOME / item[0]).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != item[1]["sha256"]
    except OSError:
        return True


def damaged() -> list[str]:
    """List the files of code and models that differ from the manifest. (Scripts may be adapted on the spot.)"""
    try:
        files = json.loads((HOME / "manifest.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return ["manifest.json"]
    decisive = [item for item in files.items() if item[0].startswith(("wbdc/", "models/")) or item[0] == "blend.json"]
    with ThreadPoolExecutor() as pool:
        return [item[0] for item, bad in zip(decisive, pool.map(differs, decisive)) if bad]


if bad := damaged():
    print(f"error: the package is damaged, {len(bad)} files differ from what was packed: {', '.join(bad[:10])}; copy it again", file=sys.stderr)
    sys.exit(4)
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
sys.dont_write_bytecode = True  # the folder may be read-only, and stays what the manifest says
sys.path.insert(0, str(HOME))  # python -I looks neither here nor in PYTHONPATH

from wbdc.serve.entry import main

sys.exit(main(HOME, BEGAN))
'''

RUN = """\
#!/bin/sh
# Answer the test split: ./run.sh --data DIR --out FILE   (PYTHON=... chooses another interpreter, RANKS=2 uses two GPUs)
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
PYTHON="${PYTHON:-python3}"
if [ "${RANKS:-1}" -gt 1 ]; then
    exec "$PYTHON" -I -m torch.distributed.run --standalone --nproc-per-node "$RANKS" --no-python "$PYTHON" -I "$HERE/main.py" "$@"
fi
exec "$PYTHON" -I "$HERE/main.py" "$@"
"""

INFERENCE = """\
#!/bin/sh
# What the judge calls, with the judge's paths and limit; DATA, RESULT, DEADLINE (seconds) or options change them.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
exec sh "$HERE/run.sh" --data "${DATA:-@DATA@}" --out "${RESULT:-@RESULT@}" --deadline "${DEADLINE:-contest}" "$@"
"""

INIT = """\
#!/bin/sh
# Make the environment ready: ./init.sh   (for train.sh: ./init.sh source/requirements.txt)
set -eu
cd "$(dirname "$0")"
PYTHON="${PYTHON:-python3}"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $PYTHON is older than 3.11; set PYTHON=..." >&2; exit 7; }
FILE="${1:-requirements.txt}"
if [ "$FILE" = requirements.txt ] && [ -f requirements.lock ]; then
    set -- --require-hashes -r requirements.lock
    if [ -d wheels ]; then set -- --no-index --find-links wheels "$@"; fi
    exec "$PYTHON" -m pip install "$@"
fi
"$PYTHON" -m pip install -r "$FILE"
"""

TRAIN = """\
#!/bin/sh
# Train the models again from the raw data: ./train.sh   (DATA, WORK and WBDC_WEIGHTS say where; ./init.sh source/requirements.txt first)
# Commands that were stopped go on where they ended when this script is run again.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
DATA=$(cd "${DATA:-@DATA@}" && pwd)
mkdir -p "${WORK:-work}"
WORK=$(cd "${WORK:-work}" && pwd)
if [ -z "${WBDC_WEIGHTS:-}" ] && [ -d "$HERE/opensource_models" ]; then WBDC_WEIGHTS="$HERE/opensource_models"; fi
if [ -n "${WBDC_WEIGHTS:-}" ]; then WBDC_WEIGHTS=$(cd "$WBDC_WEIGHTS" && pwd); export WBDC_WEIGHTS; fi
export DATA WORK PYTHONDONTWRITEBYTECODE=1
# -P: the wbdc/ beside this script only serves, and must not be found first
wbdc() { PYTHONPATH="$HERE/source" "${PYTHON:-python3}" -P -m wbdc "$@"; }
cd "$HERE"
@COMMANDS@
"""

AFTER_TRAINING = """\
#!/bin/sh
# Answer the test split with the models that train.sh made: DATA, WORK, RESULT as there.
set -eu
exec sh "${WORK:-work}/submission/inference.sh" "$@"
"""

DOCKERFILE = """\
# Runs on the CPU as it stands. For a GPU choose a base with CUDA and this Python, such as
#   nvidia/cuda:12.4.1-cudnn-runtime-ubuntu22.04 (and install python3 and pip), or pytorch/pytorch:*-runtime,
# and start it with `docker run --gpus all`. The data are mounted, read-only:
#   docker build -t submission . && docker run --network none -v DIR:@DATA@:ro -v OUT:@FOLDER@ submission
FROM python:@PYTHON@-slim
WORKDIR /submission
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt
COPY . ./
ENTRYPOINT ["sh", "/submission/run.sh"]
"""


def fill(script: str, **values: str) -> str:
    """Put values in the places of a script: fill("run @IT@", it="x") is "run x"."""
    for name, value in values.items():
        script = script.replace(f"@{name.upper()}@", value)
    return script
