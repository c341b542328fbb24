"""Plugs: one file, one class, chosen by a kit.

A plug is found by the name of its file; there is no registry. The positional parameters of its
constructor receive the object that it works on, for example the model. The keyword-only parameters
are the settings that a kit may give. A setting of the type `Annotated[str | dict, Contract]`
chooses another plug, one of the package that defines `Contract`.
"""

import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import pkgutil
import sys
import traceback
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.files import read_bytes


class NestedPlug(NamedTuple):
    """A plug that a setting of another plug chooses. table: {"use": name, **settings}."""

    package: ModuleType
    table: dict


def plug_names(package: ModuleType) -> list[str]:
    """List the plugs of a plug package, for example of `wbdc.nets.fusion`."""
    return sorted(_module_names(package))


@cache
def _module_names(package: ModuleType) -> frozenset[str]:
    return frozenset(m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg)


def plug_kind(package: ModuleType) -> str:
    """Return what a plug package holds, in the singular: "fusion", "objective"."""
    return package.Plug.__name__.lower()


def plug_name(instance: object) -> str:
    """Return the name of the file that defines the class of a plug: "mask_words"."""
    return type(instance).__module__.rsplit(".", 1)[-1]


def distinct_names(instances: Iterable[object]) -> list[str]:
    """Name plugs by their files, in order. The second use of a plug is named "mask_words#2"."""
    names: list[str] = []
    uses: Counter[str] = Counter()
    for instance in instances:
        name = plug_name(instance)
        uses[name] += 1
        names.append(name if uses[name] == 1 else f"{name}#{uses[name]}")
    return names


def plug_settings(target: Callable) -> dict[str, inspect.Parameter]:
    """Return the settings of a plug or a function by name: its keyword-only parameters."""
    return {p.name: p for p in _parameters(target) if p.kind is p.KEYWORD_ONLY}


@lru_cache(maxsize=512)  # of a plug beside a kit, each import is a class of its own
def _parameters(target: Callable) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of a plug or a function."""
    return tuple(inspect.signature(target, eval_str=True).parameters.values())


def nested_package_name(annotation: object) -> str | None:
    """Return the name of the package of the plugs that a setting of this type chooses from; None if
    it chooses no plug.
    """
    contracts = [m for m in getattr(annotation, "__metadata__", ()) if inspect.isclass(m)]
    return contracts[0].__module__ if contracts else None


def nested_package(annotation: object) -> ModuleType | None:
    """Return the package of the plugs that a setting of this type chooses from; None if it chooses
    no plug.
    """
    name = nested_package_name(annotation)
    return importlib.import_module(name) if name else None


def nested_plugs(target: Callable, settings: dict) -> dict[str, NestedPlug]:
    """Return the plugs that some settings of a plug choose, by the names of the settings.

    The name of a plug is short for a table with it: "focal" for {"use": "focal"}.
    """
    packages = {n: nested_package(p.annotation) for n, p in plug_settings(target).items()}
    return {
        name: NestedPlug(package, {"use": value} if isinstance(value, str) else value)
        for name, package in packages.items()
        if package and (value := settings.get(name)) is not None
    }


def check_settings(subject: str, target: Callable, settings: dict) -> None:
    """Check that `target` takes all settings, and that it gets all that it requires.

    subject: of the error message, for example "fusion 'dual_stream'". Raises UsageFault for an
    unknown or missing setting and for a value of the wrong type.
    """
    parameters = plug_settings(target)
    for name in settings:
        if name not in parameters:
            hint = _nested_hint(target, name) or suggest_name(name, list(parameters))
            raise UsageFault(f"{subject} has no setting {name!r}{hint}")

    for name, parameter in parameters.items():
        if name not in settings:
            if parameter.default is parameter.empty:
                raise UsageFault(f"{subject} needs a value for {name!r}")
            continue

        value = settings[name]
        if not matches_type(value, parameter.annotation):
            annotation = _plain_type(parameter.annotation)
            type_name = getattr(annotation, "__name__", str(annotation))
            raise UsageFault(f"{subject}: {name} = {value!r} is not of the type {type_name}")
        if value != value:
            raise UsageFault(f"{subject}: {name} = nan is not a number")


def check_between(subject: str, low: float, high: float, **settings: float) -> None:
    """Raise UsageFault for the first setting that is not between low and high, or not finite.

    subject: of the error message, for example "trick 'ema'". high: may be math.inf.
    """
    bounds = f"between {low:g} and {high:g}" if high < math.inf else f"at least {low:g}"
    for name, value in settings.items():
        if not low <= value <= high or not math.isfinite(value):
            raise UsageFault(f"{subject}: {name} = {value:g}; it must be {bounds}")


def check_choice(subject: str, choices: Sequence[str], **settings: str) -> None:
    """Raise UsageFault for the first setting that is not one of the choices.

    subject: of the error message, for example "objective 'match'".
    """
    for name, value in settings.items():
        if value not in choices:
            suggestion = suggest_name(value, list(choices))
            raise UsageFault(f"{subject}: no {name} called {value!r}{suggestion}")


def find_plug(package: ModuleType, use: str, kit_folder: Path | None = None) -> type:
    """Return the one class that the file of a plug defines.

    use: a name, or "./file.py" relative to the folder of the kit. Raises UsageFault.
    """
    module = _import_plug(package, use, kit_folder)
    classes = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, package.Plug) and c.__module__ == module.__name__
    ]
    if len(classes) != 1:
        contract = package.Plug.__name__
        raise UsageFault(
            f"{module.__file__} must define exactly one {contract}, found {len(classes)}"
        )
    return classes[0]


def resolve_plug(
    package: ModuleType, table: dict, kit_folder: Path | None = None
) -> tuple[type, dict]:
    """Return the class that a kit's table names and its settings, both checked, without building
    it. Settings that choose a plug are returned as tables, and checked, too.

    table: {"use": name, **settings}. Raises UsageFault.
    """
    kind = plug_kind(package)
    if not isinstance(table.get("use"), str):
        raise UsageFault(f"{kind} needs `use = ...`; one of: {', '.join(plug_names(package))}")

    settings = {name: value for name, value in table.items() if name != "use"}
    plug_class = find_plug(package, table["use"], kit_folder)
    check_settings(f"{kind} {table['use']!r}", plug_class, settings)
    for name, nested in nested_plugs(plug_class, settings).items():
        _, nested_settings = resolve_plug(nested.package, nested.table, kit_folder)
        settings[name] = {"use": nested.table["use"], **nested_settings}
    return plug_class, settings


def build_plug(
    package: ModuleType, table: dict, *host: object, kit_folder: Path | None = None
) -> object:
    """Build the plug that a kit's table names.

    table: {"use": name, **settings}. host: the plug's positional arguments. Raises UsageFault.
    """
    plug_class, settings = resolve_plug(package, table, kit_folder)
    _check_host(f"{plug_kind(package)} {table['use']!r}", package.Plug, plug_class, len(host))
    located = {
        name: _locate_files(settings[name], kit_folder)
        for name in nested_plugs(plug_class, settings)
    }
    return plug_class(*host, **{**settings, **located})


def _locate_files(table: dict, kit_folder: Path | None) -> dict:
    """Return the table of a nested plug with paths that do not depend on the kit's folder."""
    located = {
        name: _locate_files(value, kit_folder) if isinstance(value, dict) else value
        for name, value in table.items()
    }
    if str(table.get("use")).endswith(".py"):
        located["use"] = str((kit_folder or Path()) / table["use"])
    return located


def _nested_hint(target: Callable, name: str) -> str:
    """Return a hint for a setting that a nested plug has and `target` lacks; "" if none has it."""
    for outer, parameter in plug_settings(target).items():
        package = nested_package(parameter.annotation)
        uses = (
            [use for use in plug_names(package) if name in plug_settings(find_plug(package, use))]
            if package
            else []
        )
        if uses:
            return f"; write {outer} = {{ use = {json.dumps(uses[0])}, {name} = ... }}"
    return ""


def _check_host(subject: str, contract: type, plug_class: type, count: int) -> None:
    """Refuse a plug whose constructor does not take the positional arguments of its contract."""
    parameters = _parameters(plug_class)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(positional) != count and not takes_any:
        expected = [p.name for p in _parameters(contract)][:count]
        raise UsageFault(
            f"{subject}: __init__ takes {len(positional)} positional arguments, and a "
            f"{contract.__name__.lower()} takes {count} ({', '.join(expected)})"
        )


def matches_type(value: object, annotation: object) -> bool:
    """Return whether a TOML value fits an annotation. An integer fits float; a bool fits neither
    int nor float.
    """
    annotation = _plain_type(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(matches_type(value, option) for option in typing.get_args(annotation))

    kind = typing.get_origin(annotation) or annotation
    if kind in (None, types.NoneType):
        return value is None
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in (str, bool, dict, list) else True


def _plain_type(annotation: object) -> object:
    """Return the type of a value that may choose a nested plug, or the annotation itself."""
    is_annotated = typing.get_origin(annotation) is typing.Annotated
    return typing.get_args(annotation)[0] if is_annotated else annotation


class _SourceLoader(SourceFileLoader):
    """Compiles a plug from its source each time.

    Bytecode beside the file could be stale, and would be an extra file in a package.
    """

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(read_bytes(Path(self.path)), self.path)


def _import_plug(package: ModuleType, use: str, kit_folder: Path | None) -> ModuleType:
    """Import the module of a plug: one of the package, or a file beside the kit."""
    if use.endswith(".py"):
        return _import_file(plug_kind(package), (kit_folder or Path()) / use)

    names = plug_names(package)
    if use not in names:
        raise UsageFault(f"no {plug_kind(package)} called {use!r}{suggest_name(use, names)}")
    return importlib.import_module(f"{package.__name__}.{use}")


def _import_file(kind: str, path: Path) -> ModuleType:
    """Import the file of a plug under a module name of its own.

    The name holds a hash of the path, since the members of an ensemble may bring different plugs of
    one name.
    """
    if not path.is_file():
        raise UsageFault(f"no {kind} at {path}; put the file beside the kit")

    path_hash = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"wbdc_plug_{path_hash}.{path.stem}"
    absolute = str(path.absolute())
    loader = _SourceLoader(name, absolute)
    spec = importlib.util.spec_from_file_location(name, absolute, loader=loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and inspect expect this of every module

    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module.__name__]
        if isinstance(error, (UsageFault, MemoryError)):
            raise
        raise UsageFault(f"{path} cannot be loaded: {_explain(error, module)}") from error
    return module


def _explain(error: Exception, module: ModuleType) -> str:
    """Describe an error that a plug raised on import, with the line in the plug's file."""
    if isinstance(error, SyntaxError):
        line = error.lineno
        message = error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == module.__file__]
        line = lines[-1] if lines else 1
        message = " ".join(str(error).split())
    return f"line {line}: {type(error).__name__}: {message}"
