"""The scripts of a packed folder, as text. `fill` replaces the placeholders @NAME@."""

# Uses only the standard library before the checks, so that a damaged package imports nothing.
MAIN = '''\
"""Predict the test split with the models of this folder.

Usage: python3 -I main.py --data DIR --out FILE    (--help lists all options)
"""

import sys
import time

BEGAN = time.perf_counter()  # before the imports, which count in the judge's time limit

if not sys.flags.isolated:  # otherwise a file of this folder, e.g. torch.py, hides the package
    import os  # already loaded when Python starts, so not read from this folder

    os.execv(sys.executable, [sys.executable, "-I", __file__, *sys.argv[1:]])

import os
import signal


def stop(number, frame):
    """Exit on a stop signal: before wbdc is imported, there is nothing to clean up."""
    os.write(2, b"error: stopped before the result was written\\n")
    os._exit(11)


def limit_spinning():
    """Make waiting OpenMP threads sleep early when other processes use the CPUs."""
    is_set = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if not is_set and os.getloadavg()[0] > os.cpu_count() / 2:
        os.environ["GOMP_SPINCOUNT"] = "1000"


for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, stop)
limit_spinning()  # before torch is imported

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HOME = Path(__file__).resolve().parent
# Every file of these folders is compared with the manifest. The scripts may be adapted.
CHECKED_FOLDERS = ("wbdc", "models", "contest")
REQUIRED_FILES = ("blend.json", "wbdc/__init__.py", "wbdc/serve/entry.py")


def read_files() -> dict[str, str] | None:
    """Read {path: SHA-256} from the manifest; None when it was changed after packing."""
    try:
        if not stat.S_ISREG(os.lstat(HOME / "manifest.json").st_mode):
            return None
        manifest = json.loads((HOME / "manifest.json").read_text(encoding="utf-8"))
        package_sha256 = manifest.pop("package_sha256")
        text = json.dumps(manifest, ensure_ascii=False, sort_keys=True)
        if hashlib.sha256(text.encode()).hexdigest() != package_sha256:
            return None
        files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
        return None
    return files if all(name in files for name in REQUIRED_FILES) else None


def list_files() -> set[str]:
    """List everything in the checked folders that is not a folder: files, links, pipes."""
    paths = set()
    for top in CHECKED_FOLDERS:
        for parent, folders, files in os.walk(HOME / top):
            inner = Path(parent).relative_to(HOME)
            links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
            paths |= {(inner / name).as_posix() for name in (*files, *links)}
    return paths


def is_code(name: str) -> bool:
    """Tell whether a file is a module of wbdc."""
    return name.startswith("wbdc/") and name.endswith(".py")


def check_file(name: str, expected: str) -> tuple[str, str | None, bytes]:
    """Compare a file with its SHA-256.

    Returns its name, the problem or None, and its bytes when it is a module of wbdc.
    """
    content = b""
    try:
        if not stat.S_ISREG(os.lstat(HOME / name).st_mode):  # opening a pipe would block
            return name, "not a regular file", content
        with open(HOME / name, "rb") as file:
            if is_code(name):
                content = file.read()
                actual = hashlib.sha256(content).hexdigest()
            else:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return name, "missing", b""
    return name, None if actual == expected else "changed", content


def check_package() -> tuple[dict[str, bytes], list[str]]:
    """Compare code and models with the manifest.

    Returns {path: source} of the modules of wbdc, and the differences.
    """
    files = read_files()
    if files is None:
        return {}, ["manifest.json (changed)"]

    names = [n for n in files if n.split("/")[0] in CHECKED_FOLDERS or n in REQUIRED_FILES]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(check_file, names, [files[name] for name in names]))
    differences = [f"{name} ({problem})" for name, problem, _ in results if problem]
    differences += [f"{name} (extra)" for name in sorted(list_files() - set(names))]
    return {name: content for name, _, content in results if is_code(name)}, differences


class CheckedSource(importlib.abc.ExecutionLoader, importlib.abc.MetaPathFinder):
    """Import wbdc from the bytes that were checked; no other file and no bytecode is read."""

    def __init__(self, sources: dict[str, bytes]):
        self.sources = sources

    def locate(self, name: str) -> str | None:
        """Return the path of a module in the package, None when it is not listed."""
        stem = name.replace(".", "/")
        return next((p for p in (f"{stem}/__init__.py", f"{stem}.py") if p in self.sources), None)

    def find_spec(self, name, path=None, target=None):
        """Find a module of wbdc. Python finds all other modules."""
        if name.split(".")[0] != "wbdc":
            return None
        file = self.locate(name)
        if file is None:  # an installed wbdc must not replace it
            raise ModuleNotFoundError(f"no module {name} in this package", name=name)
        spec = importlib.machinery.ModuleSpec(name, self, origin=str(HOME / file))
        spec.has_location = True
        if self.is_package(name):
            spec.submodule_search_locations = [str((HOME / file).parent)]
        return spec

    def is_package(self, name):
        """Tell whether a module is a folder."""
        return self.locate(name).endswith("/__init__.py")

    def get_filename(self, name):
        """Return the path of a module's source, for tracebacks."""
        return str(HOME / self.locate(name))

    def get_source(self, name):
        """Return the source of a module."""
        return importlib.util.decode_source(self.sources[self.locate(name)])


SOURCES, DIFFERENCES = check_package()
if DIFFERENCES:
    summary = f"{len(DIFFERENCES)} files differ from the manifest: {', '.join(DIFFERENCES[:10])}"
    print(f"error: the package is damaged, {summary}; copy it again", file=sys.stderr)
    sys.exit(4)
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
sys.dont_write_bytecode = True  # the folder may be read-only, and must keep matching the manifest
sys.meta_path.insert(0, CheckedSource(SOURCES))

from wbdc.serve.entry import main

sys.exit(main(HOME, BEGAN))
'''

RUN = """\
#!/bin/sh
# Predict the test split: ./run.sh --data DIR --out FILE
# PYTHON=... selects another Python interpreter. RANKS=2 uses two GPUs.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
PYTHON="${PYTHON:-python3}"
# torchrun; after a stop signal it exits like main.py, without a traceback
TORCHRUN='
import sys
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.run import main

try:
    main(sys.argv[1:])
except SignalException:
    sys.exit(11)
'
if [ "${RANKS:-1}" -gt 1 ]; then
    exec "$PYTHON" -I -c "$TORCHRUN" --standalone --nproc-per-node "$RANKS" \\
        --no-python "$PYTHON" -I "$HERE/main.py" "$@"
fi
exec "$PYTHON" -I "$HERE/main.py" "$@"
"""

INFERENCE = """\
#!/bin/sh
# Predict the test split with the judge's paths and time limit.
# DATA, RESULT and DEADLINE (seconds) change them; further options go to main.py.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
exec sh "$HERE/run.sh" --data "${DATA:-@DATA@}" --out "${RESULT:-@RESULT@}" \\
    --deadline "${DEADLINE:-contest}" "$@"
"""

INIT = """\
#!/bin/sh
# Install the required packages: ./init.sh
# For train.sh: ./init.sh source/requirements.txt
set -eu
cd "$(dirname "$0")"
PYTHON="${PYTHON:-python3}"
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $PYTHON is older than Python 3.11; set PYTHON to a newer one" >&2
    exit 7
fi
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
# Train the models again from raw data: DATA=DIR WORK=work ./train.sh
# Install the packages first: ./init.sh source/requirements.txt
# WBDC_WEIGHTS is the folder of the pretrained weights.
# When a stopped script is run again, it continues after its finished steps.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
DATA=$(cd "${DATA:-@DATA@}" && pwd)
mkdir -p "${WORK:-work}"
WORK=$(cd "${WORK:-work}" && pwd)
if [ -z "${WBDC_WEIGHTS:-}" ] && [ -d "$HERE/opensource_models" ]; then
    WBDC_WEIGHTS="$HERE/opensource_models"
fi
if [ -n "${WBDC_WEIGHTS:-}" ]; then
    WBDC_WEIGHTS=$(cd "$WBDC_WEIGHTS" && pwd)
    export WBDC_WEIGHTS
fi
export DATA WORK PYTHONDONTWRITEBYTECODE=1
# A stop signal is passed on to the running command, which would otherwise continue alone.
COMMAND='' STOPPED=''
trap 'STOPPED=1; [ -z "$COMMAND" ] || kill -TERM "$COMMAND" 2>/dev/null || :' HUP INT TERM
# -P: the wbdc/ folder beside this script cannot train and must not be imported
wbdc() {
    [ -z "$STOPPED" ] || exit 11
    PYTHONPATH="$HERE/source" "${PYTHON:-python3}" -P -m wbdc "$@" &
    COMMAND=$! CODE=0
    [ -z "$STOPPED" ] || kill -TERM "$COMMAND" 2>/dev/null || :
    wait "$COMMAND" || CODE=$?
    while [ "$CODE" -gt 128 ] && kill -0 "$COMMAND" 2>/dev/null; do  # a signal interrupts `wait`
        CODE=0
        wait "$COMMAND" || CODE=$?
    done
    COMMAND=''
    [ -z "$STOPPED" ] || exit 11
    return "$CODE"
}
cd "$HERE"
@COMMANDS@
"""

AFTER_TRAINING = """\
#!/bin/sh
# Predict the test split with the models that train.sh trained; uses the same DATA and WORK.
# RESULT is the result file.
set -eu
exec sh "${WORK:-work}/submission/inference.sh" "$@"
"""

NO_TRAINING = (
    'echo "error: this package was made without the commands that train its models" >&2; exit 2'
)

DOCKERFILE = """\
# This image runs on the CPU. For a GPU, use a base image with CUDA and this version of Python:
# pytorch/pytorch:*-runtime, or nvidia/cuda:12.4.1-cudnn-runtime-ubuntu22.04 with python3 and pip.
# Start it with `docker run --gpus all`. The data are mounted read-only:
#   docker build -t submission .
#   docker run --network none -v DIR:@DATA@:ro -v OUT:@FOLDER@ submission
FROM python:@PYTHON@-slim
WORKDIR /submission
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt
COPY . ./
ENTRYPOINT ["sh", "/submission/run.sh"]
"""


def fill(script: str, **values: str) -> str:
    """Replace placeholders in a script: fill("run @NAME@", name="x") returns "run x"."""
    for name, value in values.items():
        script = script.replace(f"@{name.upper()}@", value)
    return script
