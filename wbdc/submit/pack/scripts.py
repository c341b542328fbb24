"""The scripts of a packed folder, as text: what the judge calls, and what they stand on. @NAME@ is
filled in by `package`.
"""

# Standard library only until the checks are done: nothing of a damaged package is imported.
MAIN = '''\
"""Answer the test split with the models beside this file: python3 -I main.py --data DIR --out FILE (--help lists the rest)."""

import sys
import time

BEGAN = time.perf_counter()  # first of all: imports belong to the time that the judge counts

if not sys.flags.isolated:  # otherwise Python imports what lies beside this file, a torch.py for example
    import os  # loaded when Python starts, so it is not read from this folder

    os.execv(sys.executable, [sys.executable, "-I", __file__, *sys.argv[1:]])

import os
import signal


def stop(number, frame):
    """End at a stop signal: until wbdc is imported, there is nothing to clean up."""
    os.write(2, b"error: stopped before the result was written\\n")
    os._exit(11)


def limit_spinning():
    """Let OpenMP threads sleep soon while they wait, when other processes use the CPUs."""
    chosen = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if not chosen and os.getloadavg()[0] > os.cpu_count() / 2:
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
CHECKED = ("wbdc", "models", "contest")  # folders in which every file is checked; scripts may be adapted
NEEDED = ("blend.json", "wbdc/__init__.py", "wbdc/serve/entry.py")


def read_files() -> dict[str, str] | None:
    """Read {path: SHA-256} of the manifest; None when it is not what was packed."""
    try:
        if not stat.S_ISREG(os.lstat(HOME / "manifest.json").st_mode):
            return None
        manifest = json.loads((HOME / "manifest.json").read_text(encoding="utf-8"))
        bound = manifest.pop("bound")
        text = json.dumps(manifest, ensure_ascii=False, sort_keys=True)
        if hashlib.sha256(text.encode()).hexdigest() != bound:
            return None
        files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
        return None
    return files if all(name in files for name in NEEDED) else None


def list_files() -> set[str]:
    """List everything in the checked folders that is not a folder: files, links, pipes."""
    found = set()
    for top in CHECKED:
        for place, folders, files in os.walk(HOME / top):
            inner = Path(place).relative_to(HOME)
            links = [name for name in folders if os.path.islink(os.path.join(place, name))]
            found |= {(inner / name).as_posix() for name in (*files, *links)}
    return found


def is_code(name: str) -> bool:
    """Tell whether a file is a module of wbdc."""
    return name.startswith("wbdc/") and name.endswith(".py")


def check_file(item: tuple[str, str]) -> tuple[str, str | None, bytes]:
    """Compare a file with its hash: its path, what is wrong (None: nothing), and its bytes when it is code of wbdc."""
    path, expected = HOME / item[0], item[1]
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # opening a pipe would wait for ever
            return item[0], "not a regular file", b""
        with path.open("rb") as file:
            if is_code(item[0]):
                content = file.read()
                actual = hashlib.sha256(content).hexdigest()
            else:
                content, actual = b"", hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return item[0], "missing", b""
    return item[0], None if actual == expected else "changed", content


def check_package() -> tuple[dict[str, bytes], list[str]]:
    """Check code and models: {path: source} of wbdc, and the differences from the manifest."""
    files = read_files()
    if files is None:
        return {}, ["manifest.json (changed)"]
    checked = {n: h for n, h in files.items() if n.split("/")[0] in CHECKED or n in NEEDED}
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(check_file, checked.items()))
    wrong = [f"{name} ({problem})" for name, problem, _ in results if problem]
    wrong += [f"{name} (extra)" for name in sorted(list_files() - set(checked))]
    return {name: content for name, _, content in results if is_code(name)}, wrong


class CheckedSource(importlib.abc.ExecutionLoader, importlib.abc.MetaPathFinder):
    """Imports wbdc from the bytes that were checked: no other file, and no bytecode, is read."""

    def __init__(self, sources: dict[str, bytes]):
        self.sources = sources

    def locate(self, name: str) -> str | None:
        """Return the path of a module in the package, None when it is not listed."""
        stem = name.replace(".", "/")
        return next((p for p in (f"{stem}/__init__.py", f"{stem}.py") if p in self.sources), None)

    def find_spec(self, name, path=None, target=None):
        """Find a module of wbdc. All other modules are left to Python."""
        if name.split(".")[0] != "wbdc":
            return None
        file = self.locate(name)
        if file is None:  # an installed wbdc must not fill in
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
        """Return where the source of a module lies, for tracebacks."""
        return str(HOME / self.locate(name))

    def get_source(self, name):
        """Return the source of a module."""
        return importlib.util.decode_source(self.sources[self.locate(name)])


SOURCES, WRONG = check_package()
if WRONG:
    named = f"{len(WRONG)} files differ from what was packed: {', '.join(WRONG[:10])}"
    print(f"error: the package is damaged, {named}; copy it again", file=sys.stderr)
    sys.exit(4)
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
sys.dont_write_bytecode = True  # the folder may be read-only, and stays what the manifest says
sys.meta_path.insert(0, CheckedSource(SOURCES))

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
# A signal that ends this script stops the command that runs, which would go on alone otherwise.
COMMAND='' STOPPED=''
trap 'STOPPED=1; [ -z "$COMMAND" ] || kill -TERM "$COMMAND" 2>/dev/null || :' HUP INT TERM
# -P: the wbdc/ beside this script only serves, and must not be found first
wbdc() {
    [ -z "$STOPPED" ] || exit 11
    PYTHONPATH="$HERE/source" "${PYTHON:-python3}" -P -m wbdc "$@" &
    COMMAND=$! CODE=0
    [ -z "$STOPPED" ] || kill -TERM "$COMMAND" 2>/dev/null || :
    wait "$COMMAND" || CODE=$?
    while [ "$CODE" -gt 128 ] && kill -0 "$COMMAND" 2>/dev/null; do  # a signal ends `wait` early
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
# Answer the test split with the models that train.sh made: DATA, WORK, RESULT as there.
set -eu
exec sh "${WORK:-work}/submission/inference.sh" "$@"
"""

NO_TRAINING = (
    'echo "error: this package was made without the commands that train its models" >&2; exit 2'
)

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
