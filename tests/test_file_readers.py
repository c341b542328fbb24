"""Every file is opened by wbdc/core/files.py, which refuses pipes and devices: opening them might
never return.
"""

import ast
import os
from collections.abc import Iterator

import pytest
from parsed_modules import parse_modules
from small import python

FILES, WEIGHTS = "core/files.py", "core/weights.py"
KERNEL = "core/process_tree.py"  # reads /proc only
# after find_weights, which accepts regular files only
PRETRAINED = (
    "nets/trunk.py",
    "nets/transformers_weights.py",
    "train/estimator_parts/prompt_vectors.py",
)
LOADERS = {
    "load_file": (WEIGHTS,),
    "safe_open": (WEIGHTS,),
    "from_file": (),
    "from_pretrained": PRETRAINED,
}
READERS = "|".join(("open", "read_text", "read_bytes", *LOADERS))  # without them, nothing is read


def reads(tree: ast.Module, name: str = "") -> Iterator[int]:
    """Yield the lines on which a module opens a file without `open_regular`."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = getattr(call.func, "attr", getattr(call.func, "id", ""))
        loads = called in LOADERS and name not in LOADERS[called]
        method = isinstance(call.func, ast.Attribute)
        if (
            loads
            or (method and called in ("read_text", "read_bytes"))
            or (called == "open" and opens(call, method))
        ):
            yield call.lineno


def opens(call: ast.Call, method: bool) -> bool:
    """Return whether a call of `open` opens a path for reading: open(path), path.open(),
    os.open(path, O_RDONLY).
    """
    owner = getattr(call.func.value, "id", "") if method else ""
    if owner == "os":
        return "O_NONBLOCK" not in ast.unparse(call)
    mode = next((k.value for k in call.keywords if k.arg == "mode"), None)
    if mode is None:
        mode = next(iter(call.args[0 if method else 1 :]), None)
    if method and isinstance(mode, ast.expr) and not isinstance(mode, ast.Constant):
        return False  # archive.open(entry), Image.open(stream)
    return mode is None or not set(str(mode.value)) & set("wax+")


def test_only_files_and_weights_open_files():
    faulty = [
        f"{name}:{line}"
        for name, tree in parse_modules(READERS)
        if name not in (FILES, KERNEL)
        for line in reads(tree, name)
    ]
    assert faulty == [], (
        "these lines open a file themselves; use open_regular, read_bytes or read_text of "
        "wbdc.core.files, or load_weights"
    )


FORBIDDEN = [
    "open(p)",
    "open(p, 'rb')",
    "open(p, mode='r')",
    "p.open()",
    "p.open('rb')",
    "p.open(encoding='utf-8')",
    "p.read_text()",
    "p.read_bytes()",
    "load_file(p)",
    "safetensors.torch.load_file(p)",
    "safe_open(p, 'pt')",
    "Tokenizer.from_file(p)",
    "os.open(p, os.O_RDONLY)",
]
ALLOWED = [
    "read_text(p)",
    "read_bytes(p)",
    "open_regular(p)",
    "p.open('w')",
    "open(p, 'ab')",
    "archive.open(entry)",
    "Image.open(io.BytesIO(data))",
    "load_weights(p)",
    "os.open(p, os.O_RDONLY | os.O_NONBLOCK)",
    "Tokenizer.from_buffer(data)",
]


@pytest.mark.parametrize("code", FORBIDDEN)
def test_readers_are_noticed(code):
    assert list(reads(ast.parse(code)))


@pytest.mark.parametrize("code", ALLOWED)
def test_guarded_readers_are_allowed(code):
    assert not list(reads(ast.parse(code)))


READ_ALL = """
import sys
from pathlib import Path

from wbdc.core.files import explain_os_error, read_bytes, read_text
from wbdc.core.user_cache import read_cache
from wbdc.core.weights import load_weights, open_weights
from wbdc.data.text import open_tokenizer

pipe, folder = Path(sys.argv[1]), Path(sys.argv[1]).parent
for read in (read_bytes, read_text, load_weights, open_weights):
    try:
        read(pipe)
    except OSError as error:
        print(read.__name__, explain_os_error(error).code, explain_os_error(error))
try:
    open_tokenizer(folder)
except Exception as error:
    print(error.code, error)
print(read_cache(pipe))
"""


@pytest.mark.slow
def test_a_pipe_in_place_of_a_file_is_refused(tmp_path):
    pipe = tmp_path / "tokenizer.json"
    os.mkfifo(pipe)
    process = python(READ_ALL, pipe, timeout=60)
    assert process.stdout.splitlines() == [
        *(
            f"{name} 4 {pipe} is not a regular file; replace it with a file"
            for name in ("read_bytes", "read_text", "load_weights", "open_weights")
        ),
        f"4 {pipe} is damaged: [Errno 22] not a regular file: '{pipe}'",
        "[]",
    ], process.stderr
