"""Plugs: one file, one class, chosen by a kit.

A plug is found by the name of its file, so there is nothing to register. Positional parameters of
its
constructor are the host it serves; keyword-only parameters are the settings a kit may give.
"""

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.files import read_bytes


def plug_names(home: ModuleType) -> list[str]:
    """List the plugs that come with a plug folder, such as `wbdc.nets.fusion`."""
    return sorted(m.name for m in pkgutil.iter_modules(home.__path__) if not m.ispkg)


def plug_kind(home: ModuleType) -> str:
    """Name what the folder holds in the singular: "fusion", "objective"."""
    return home.Plug.__name__.lower()


def plug_name(instance: object) -> str:
    """Return the name of the file that defines a plug's class: "mask_words"."""
    return type(instance).__module__.rsplit(".", 1)[-1]


def distinct_names(instances: Iterable[object]) -> list[str]:
    """Name plugs by their files, in order; a second use of one is "mask_words#2"."""
    names: list[str] = []
    uses: Counter[str] = Counter()
    for instance in instances:
        name = plug_name(instance)
        uses[name] += 1
        names.append(name if uses[name] == 1 else f"{name}#{uses[name]}")
    return names


def plug_settings(target: Callable) -> dict[str, inspect.Parameter]:
    """Return the settings that a plug or a function takes: its keyword-only parameters, by name."""
    return {
        p.name: p
        for p in inspect.signature(target, eval_str=True).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }


def check_settings(what: str, target: Callable, given: dict) -> None:
    """Refuse settings that `target` does not take, and settings it needs and does not get.

    what: the subject of the error sentence, such as "fusion 'dual_stream'". Raises UsageFault.
    """
    known = plug_settings(target)
    for name in given:
        if name not in known:
            raise UsageFault(f"{what} has no setting {name!r}{suggest_name(name, list(known))}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in given:
            raise UsageFault(f"{what} needs a value for {name!r}")
        if name in given and not _matches_type(given[name], parameter.annotation):
            wanted = getattr(parameter.annotation, "__name__", str(parameter.annotation))
            raise UsageFault(f"{what}: {name} = {given[name]!r} is not of the type {wanted}")
        if name in given and given[name] != given[name]:
            raise UsageFault(f"{what}: {name} = nan is not a number")


def find_plug(home: ModuleType, use: str, kit_folder: Path | None = None) -> type:
    """Return the one class that a plug's file defines.

    use: a name, or "./file.py" beside the kit. kit_folder: the folder of the kit. Raises UsageFault.
    """
    module = _import_plug(home, use, kit_folder)
    found = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, home.Plug) and c.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UsageFault(
            f"{module.__file__} must define exactly one {home.Plug.__name__}, found {len(found)}"
        )
    return found[0]


def resolve_plug(
    home: ModuleType, table: dict, kit_folder: Path | None = None
) -> tuple[type, dict]:
    """Return the class that `table` asks for and its settings, both checked, without building it."""
    if not isinstance(table.get("use"), str):
        raise UsageFault(
            f"{plug_kind(home)} needs `use = ...`; one of: {', '.join(plug_names(home))}"
        )
    chosen = {k: v for k, v in table.items() if k != "use"}
    plug = find_plug(home, table["use"], kit_folder)
    check_settings(f"{plug_kind(home)} {table['use']!r}", plug, chosen)
    return plug, chosen


def build_plug(
    home: ModuleType, table: dict, *host: object, kit_folder: Path | None = None
) -> object:
    """Build the plug that `table` ({"use": name, **settings}) asks for, for the host it serves.
    Raises UsageFault.
    """
    plug, chosen = resolve_plug(home, table, kit_folder)
    return plug(*host, **chosen)


def _matches_type(value: object, wanted: object) -> bool:
    """Tell whether a TOML value fits an annotation; whole numbers fit float, and true is no number."""
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return any(_matches_type(value, one) for one in typing.get_args(wanted))
    kind = typing.get_origin(wanted) or wanted
    if kind in (None, types.NoneType):
        return value is None
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in (str, bool, dict, list) else True


class _SourceLoader(SourceFileLoader):
    """Compiles a plug from its file each time: bytecode beside it could be stale, and would be an
    extra file in a package.
    """

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(read_bytes(Path(self.path)), self.path)


def _import_plug(home: ModuleType, use: str, kit_folder: Path | None) -> ModuleType:
    if not use.endswith(".py"):
        if use not in plug_names(home):
            raise UsageFault(
                f"no {plug_kind(home)} called {use!r}{suggest_name(use, plug_names(home))}"
            )
        return importlib.import_module(f"{home.__name__}.{use}")
    path = (kit_folder or Path()) / use
    if not path.is_file():
        raise UsageFault(f"no {plug_kind(home)} at {path}; put the file beside the kit")
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[
        :8
    ]  # members of an ensemble bring plugs of one name
    name = f"wbdc_plug_{place}.{path.stem}"
    absolute = str(path.absolute())
    spec = importlib.util.spec_from_file_location(
        name, absolute, loader=_SourceLoader(name, absolute)
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # as dataclasses and inspect expect of every module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module.__name__]
        if isinstance(error, (UsageFault, MemoryError)):
            raise
        frames = [
            f.lineno
            for f in traceback.extract_tb(error.__traceback__)
            if f.filename == module.__file__
        ]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1] if frames else 1
        said = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        raise UsageFault(
            f"{path} cannot be loaded: line {line}: {type(error).__name__}: {said}"
        ) from error
    return module
