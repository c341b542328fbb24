"""Only wbdc/core/files.py writes files, and functions that are passed to its `publish_file`."""

import ast
from collections.abc import Iterator

import pytest
from parsed_modules import parse_modules

WRITER = "core/files.py"
# a process of its own, which writes the temporary file of `publish_file`
CONVERTER = "train/pretrained/unpickle.py"
FORBIDDEN_WRITERS = {
    "write_text",
    "write_bytes",
    "to_csv",
    "to_json",
    "to_parquet",
    "write_csv",
    "write_json",
    "write_ndjson",
    "write_ipc",
    "tofile",
    "savetxt",
}
PUBLISHING_WRITERS = {
    "save_file",
    "write_parquet",
    "copyfile",
    "copy2",
    "copytree",
    "save_pretrained",
    "savez",
}  # allowed in functions that `publish_file` calls
# without them, nothing is written
WRITERS = "|".join(("open", *FORBIDDEN_WRITERS, *PUBLISHING_WRITERS))


def writes(tree: ast.Module) -> Iterator[int]:
    """Yield the lines on which a module writes a file without `publish_file`."""
    passed_names = {
        a.id for call in _calls(tree, "publish_file") for a in call.args if isinstance(a, ast.Name)
    }
    functions = [
        a for call in _calls(tree, "publish_file") for a in call.args if isinstance(a, ast.Lambda)
    ]
    functions += [
        f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and f.name in passed_names
    ]
    published = {id(node) for function in functions for node in ast.walk(function)}
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        if _name(call) == "write_csv" and not call.args and not call.keywords:
            continue  # it returns the text
        if (
            _opens(call) or _name(call) in FORBIDDEN_WRITERS or _name(call) in PUBLISHING_WRITERS
        ) and id(call) not in published:
            yield call.lineno


def _calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and _name(n) == name]


def _name(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _opens(call: ast.Call) -> bool:
    """Return whether a call opens a file for writing: open(path, "w"), path.open("a"),
    os.open(path, O_WRONLY).
    """
    if _name(call) != "open":
        return False
    if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "os":
        return any(word in ast.unparse(call) for word in ("O_WRONLY", "O_RDWR", "O_CREAT"))
    position = 0 if isinstance(call.func, ast.Attribute) else 1
    mode = next(
        (k.value for k in call.keywords if k.arg == "mode"),
        call.args[position] if len(call.args) > position else None,
    )
    return (
        isinstance(mode, ast.Constant)
        and isinstance(mode.value, str)
        and set(mode.value) <= set("rwaxbt+")
        and bool(set(mode.value) & set("wax+"))
    )


def test_only_core_files_writes():
    faulty = [
        f"{name}:{line}"
        for name, tree in parse_modules(WRITERS)
        if name not in (WRITER, CONVERTER)
        for line in writes(tree)
    ]
    assert faulty == [], "these lines write a file; use wbdc.core.files"


GUILTY = [
    "open(p, 'w')",
    "open(p, mode='ab')",
    "p.open('x')",
    "p.open('r+b')",
    "p.open(mode='w')",
    "p.write_text('x')",
    "p.write_bytes(b'')",
    "table.to_csv(p)",
    "table.write_csv(p)",
    "save_file(t, p)",
    "table.write_parquet(p)",
    "shutil.copyfile(a, b)",
    "os.open(p, os.O_CREAT)",
    "publish_file(p, save_file(t, q))",
    "def write(t): save_file(x, t)\nother(p, write)",
]
INNOCENT = [
    "open(p)",
    "table.write_csv()",
    "open(p, 'rb')",
    "p.open('r')",
    "archive.open(entry)",
    "Image.open(io.BytesIO(data))",
    "os.rename(a, b)",
    "picture.save(stream, 'JPEG')",
    "publish_file(p, lambda t: save_file(x, t))",
    "files.publish_file(p, lambda t: shutil.copyfile(a, t))",
    "publish_file(p, table.write_parquet)",
    "def write(t): save_file(x, t)\npublish_file(p, write)",
    "os.open(p, os.O_RDONLY)",
    "zipfile.ZipFile(stream, 'w')",
]


@pytest.mark.parametrize("code", GUILTY)
def test_writers_are_noticed(code):
    assert list(writes(ast.parse(code)))


@pytest.mark.parametrize("code", INNOCENT)
def test_readers_are_allowed(code):
    assert not list(writes(ast.parse(code)))
