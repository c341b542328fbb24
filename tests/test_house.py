"""Rules for the whole package: layers, plugs, names, and habits that a program can check."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from parsed_modules import FILES, PACKAGE, parse

from wbdc import competitions
from wbdc.core import plug
from wbdc.nets import fusion, heads, modality, pooling, vision
from wbdc.prepare import engines
from wbdc.serve import members
from wbdc.train import estimators, loggers, losses, objectives, samplers, schedules, tricks

LAYERS = (
    ("core",),
    ("competitions",),
    ("data", "nets"),
    ("serve",),
    ("prepare",),
    ("train",),
    ("ensemble",),
    ("submit",),
    ("bench",),
    ("recipes",),
    ("sweep",),
    ("report",),
    ("cli",),
)
LAYER = {folder: number for number, folders in enumerate(LAYERS) for folder in folders}
SHIPPED = ("core", "competitions", "data", "nets", "serve")
NOT_SHIPPED = {"polars", "rich", "click", "sklearn"}
PLUGS = {
    "competitions": competitions,
    "vision": vision,
    "modality": modality,
    "fusion": fusion,
    "pooling": pooling,
    "heads": heads,
    "objectives": objectives,
    "losses": losses,
    "tricks": tricks,
    "samplers": samplers,
    "schedules": schedules,
    "loggers": loggers,
    "engines": engines,
    "members": members,
    "estimators": estimators,
}


@cache
def walk(name: str) -> list[ast.AST]:
    """List all nodes of a file."""
    return list(ast.walk(parse(name)))


@cache
def calls(name: str) -> list[tuple[str, ast.Call]]:
    """List the calls of a file with the function that each calls, for example `torch.load`."""
    return [(ast.unparse(node.func), node) for node in walk(name) if isinstance(node, ast.Call)]


def for_each(names: Iterable[str]) -> Callable:
    """Run a check of one file for some files, as one test: thousands of tests of a millisecond
    take a minute.
    """

    def decorate(check: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            for name in names:
                check(name)

        test.__name__ = check.__name__
        return test

    return decorate


every_file = for_each(FILES)


def imports(name: str, nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the dotted names of all modules and objects that a file imports, also in functions."""
    package = ["wbdc", *name.split("/")[:-1]]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = ".".join(
                [
                    *(package[: len(package) - node.level + 1] if node.level else []),
                    *([node.module] if node.module else []),
                ]
            )
            yield from (f"{home}.{alias.name}" for alias in node.names)


def folder(dotted: str) -> str | None:
    """Return the folder of wbdc to which an import belongs."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "wbdc" and len(parts) > 1 and parts[1] in LAYER else None


@for_each([name for name in FILES if "/" in name])
def test_imports_go_down_or_stay_in_one_folder(name):
    package = name.split("/")[0]
    for dotted in imports(name, walk(name)):
        other = folder(dotted)
        if other and other != package:
            direction = "up" if LAYER[other] > LAYER[package] else "across"
            assert LAYER[other] < LAYER[package], f"`{name}` imports {direction}: `{dotted}`"


def test_every_folder_has_a_layer():
    assert {name.split("/")[0] for name in FILES if "/" in name} <= set(LAYER)


@for_each([name for name in FILES if name.split("/")[0] in SHIPPED])
def test_shipped_files_import_only_packages_of_a_submission(name):
    for dotted in imports(name, walk(name)):
        assert dotted.split(".")[0] not in NOT_SHIPPED, f"`{name}` is shipped and imports {dotted}"


def plug_file(home: ModuleType, name: str) -> str:
    """Return the file of a plug, relative to the package."""
    return Path(home.__path__[0], f"{name}.py").relative_to(PACKAGE).as_posix()


ALL_PLUGS = [(kind, name) for kind, home in PLUGS.items() for name in plug.plug_names(home)]


@pytest.mark.parametrize(("kind", "name"), ALL_PLUGS)
def test_a_plug_is_one_file_with_one_class_and_a_docstring(kind, name):
    home = PLUGS[kind]
    tree = parse(plug_file(home, name))
    plug_class = plug.find_plug(home, name)
    classes = [c.name for c in tree.body if isinstance(c, ast.ClassDef)]
    assert classes == [plug_class.__name__]
    (parent,) = plug_class.__bases__
    # for example ClipTower, which several plugs share; a plug never inherits from a plug
    is_shared = parent.__bases__ == (home.Plug,) and not parent.__module__.startswith(home.__name__)
    assert parent is home.Plug or is_shared, (
        "a plug inherits from its contract, in two steps at most"
    )
    assert plug_class.__name__.lower() == name.replace("_", ""), "the file name is the plug's name"
    assert plug_class.__doc__
    assert ast.get_docstring(tree).split("\n\n")[0].endswith((".", ")"))
    for setting in plug.plug_settings(plug_class).values():
        assert setting.annotation is not setting.empty, (
            f"{kind} {name}: {setting.name} has no type, so its values are not checked"
        )


@pytest.mark.parametrize(("kind", "name"), ALL_PLUGS)
def test_plugs_do_not_import_their_siblings(kind, name):
    home = PLUGS[kind]
    path = plug_file(home, name)
    siblings = {f"{home.__name__}.{other}" for other in plug.plug_names(home) if other != name}
    for dotted in imports(path, walk(path)):
        assert not any(dotted == s or dotted.startswith(f"{s}.") for s in siblings), (
            f"`{path}` imports its sibling `{dotted}`"
        )


@for_each([name for name in FILES if not name.startswith("cli/")])
def test_only_cli_prints(name):
    for function, node in calls(name):
        to_stderr = any(
            k.arg == "file" and ast.unparse(k.value) == "sys.stderr" for k in node.keywords
        )
        prints = function in ("print", "click.echo", "sys.stdout.write", "sys.stderr.write")
        answers = function == "sys.stdout.write"  # to requests, one line each
        assert not prints or (name == "serve/entry.py" and (to_stderr or answers)), (
            f"`{name}` line {node.lineno} prints; return the text, or use a callback"
        )


@every_file
def test_trap_15_nothing_is_unpickled_or_loaded_without_strict(name):
    for dotted in imports(name, walk(name)):
        assert dotted.split(".")[0] not in (
            "pickle",
            "cPickle",
            "dill",
            "joblib",
            "marshal",
            "shelve",
        ), f"`{name}` imports {dotted}"
    for function, node in calls(name):
        # the script of `wbdc weights convert`, in a process of its own
        if name == "train/pretrained/unpickle.py" and function == "torch.load":
            assert any(ast.unparse(k) == "weights_only=True" for k in node.keywords)
            continue
        assert function not in (
            "torch.load",
            "torch.save",
            "pickle.load",
            "pickle.loads",
            "eval",
        ), f"`{name}` line {node.lineno}: {function}"
        for keyword in node.keywords:
            loose = (keyword.arg, ast.unparse(keyword.value)) in (
                ("strict", "False"),
                ("allow_pickle", "True"),
                ("weights_only", "False"),
                ("trust_remote_code", "True"),
            )
            assert not loose, (
                f"`{name}` line {node.lineno}: {keyword.arg}={ast.unparse(keyword.value)}"
            )
        assert function != "model.load_state_dict" or any(
            k.arg == "strict" for k in node.keywords
        ), f"`{name}` line {node.lineno}: use strict=True"


NAMES_TO_AVOID = {"cfg", "config", "args", "opt", "utils", "helpers", "common", "manager", "base"}


@every_file
def test_no_config_object_and_no_file_without_a_subject(name):
    assert Path(name).stem not in NAMES_TO_AVOID
    for node in walk(name):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parameters = [
                a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            ]
            allowed = (
                {"args"} if (name[:4], node.name) == ("cli/", "resolve_command") else set()
            )  # click's own name
            assert not NAMES_TO_AVOID - allowed & set(parameters), (
                f"`{name}` line {node.lineno}: {node.name} takes {parameters}"
            )


def public_definitions(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.ClassDef | None]]:
    """Yield the public functions, classes and methods of a file, and the class of each method."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node, None
            if isinstance(node, ast.ClassDef):
                yield from (
                    (m, node)
                    for m in node.body
                    if isinstance(m, ast.FunctionDef)
                    and (not m.name.startswith("_") or m.name == "__init__")
                )


@every_file
def test_public_names_have_types_and_docstrings(name):
    tree = parse(name)
    assert ast.get_docstring(tree), f"`{name}` has no docstring"
    for node, within in public_definitions(tree):
        location = f"`{name}` line {node.lineno}: {node.name}"
        if isinstance(node, ast.FunctionDef):
            arguments = [
                a
                for a in (
                    *node.args.posonlyargs,
                    *node.args.args,
                    *node.args.kwonlyargs,
                    node.args.vararg,
                    node.args.kwarg,
                )
                if a
            ]
            untyped = [
                a.arg
                for a in arguments
                if a.annotation is None and not (within and a.arg in ("self", "cls"))
            ]
            assert not untyped, f"{location} takes {', '.join(untyped)} without a type"
            assert node.returns or node.name == "__init__", (
                f"{location} returns something without a type"
            )
        inherits = within is not None and bool(within.bases)  # the contract explains the method
        assert ast.get_docstring(node) or inherits or getattr(node, "name", "") == "__init__", (
            f"{location} has no docstring"
        )


@every_file
def test_no_broad_exception_is_ignored(name):
    for node in walk(name):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            silent = all(isinstance(s, (ast.Pass, ast.Continue)) for s in node.body)
            raises = any(isinstance(n, ast.Raise) for n in ast.walk(node))
            assert not broad or (raises and not silent), (
                f"`{name}` line {node.lineno} ignores every exception"
            )


# words that do not say what a value holds, or what a function does
VAGUE_NAME = re.compile(
    "_*(said|told|found|made|asked|seen|given|kept|wanted|taken|left|held|shown|learned|own|others|"
    "which|who|where|how|place|look|looked|looks|alike|again|certain)"
)
VAGUE_CONSTANTS = ("MOST", "LEAST", "FEW", "MANY")
EXACT_WORDS = {  # {file: names that mean here what they say}
    "data/frames.py": {"left"},  # edge of a crop
    "prepare/demo/scenes.py": {"left"},  # edge of a shape
}


def bound_names(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield the line and name of each variable, parameter, attribute, function and class that some
    nodes define.
    """
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.lineno, node.name


def vague_names(name: str) -> list[str]:
    """List the vague names that a file defines, each with its line."""
    exact = EXACT_WORDS.get(name, set())
    return [
        f"line {line}: {word}"
        for line, word in bound_names(walk(name))
        if VAGUE_NAME.fullmatch(word) and word not in exact
    ]


@every_file
def test_no_vague_names(name):
    assert not vague_names(name), f"`{name}` uses vague names; see VAGUE_NAME"


@every_file
def test_constants_name_their_domain(name):
    for node in parse(name).body:
        for line, constant in bound_names(ast.walk(node)):
            assert not constant.startswith(VAGUE_CONSTANTS), (
                f"`{name}` line {line}: {constant}; write MAX_ or MIN_ and the domain"
            )


NAMES_OF_CONTRACTS = {
    "Plug",  # every plug folder names its contract so
    "main",  # entry points: of the wbdc command, and of a packed submission
}


def top_level_names(tree: ast.Module) -> set[str]:
    """Return the public functions, classes and constants of a file."""

    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names |= {name for _, name in bound_names(ast.walk(node))}
    return {name for name in names if not name.startswith("_")}


def plug_class_names(path: Path) -> set[str]:
    """Return the class of a plug file, named after the file: a kit tells a linear head from a
    linear schedule by its table, and so do imports by the folder.
    """
    folders = {Path(home.__path__[0]).relative_to(PACKAGE): home for home in PLUGS.values()}
    home = folders.get(path.parent)
    is_plug = home is not None and path.stem in plug.plug_names(home)
    return {plug.find_plug(home, path.stem).__name__} if is_plug else set()


def test_a_top_level_name_means_one_thing():
    homes: dict[str, list[str]] = {}
    for path in FILES:
        names = top_level_names(parse(path)) - NAMES_OF_CONTRACTS
        for name in names - plug_class_names(Path(path)):
            homes.setdefault(name, []).append(path)
    clashes = {name: paths for name, paths in homes.items() if len(paths) > 1}
    assert not clashes


CONTEST_WORDS = (
    "lv1_micro",
    "category_id",
    "annotations/",
    "zip_frames",
    "zip_feats",
    '"asr"',
    '"ocr"',
)


# the demo generates data of that contest
@for_each([name for name in FILES if not name.startswith(("competitions/", "prepare/demo"))])
def test_names_of_one_contest_stay_in_its_file(name):
    text = (PACKAGE / name).read_text(encoding="utf-8")
    assert not [word for word in CONTEST_WORDS if word in text], (
        f"`{name}` names a part of one contest"
    )


def test_imports_are_found():
    """A test of layers that finds no imports would always pass."""
    code = "from wbdc.serve.engine import InferenceEngine\nimport polars\nfrom ..train import fit"
    nodes = list(ast.walk(ast.parse(code)))
    assert list(imports("core/x.py", nodes)) == [
        "wbdc.serve.engine.InferenceEngine",
        "polars",
        "wbdc.train.fit",
    ]
    assert [folder(d) for d in imports("core/x.py", nodes)] == ["serve", None, "train"]


@every_file
def test_unrelated_values_are_assigned_on_lines_of_their_own(name):
    for node in walk(name):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            is_unpacked = isinstance(node.targets[0], ast.Tuple) and len(node.value.elts) > 2
            assert not is_unpacked, f"`{name}` line {node.lineno}: one assignment a line"
