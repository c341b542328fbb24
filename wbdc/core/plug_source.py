"""The settings of a plug of the package, read from the text of its file: nothing is imported, least
of all torch.

The file defines one class with a constructor, as `wbdc.core.plug` describes. Annotations and
defaults are evaluated; a name in them is a builtin, a constant of the file, or one that the file
imports from another file of the package or from the standard library.
"""

import ast
import builtins
import functools
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from wbdc.core import plug
from wbdc.core.files import read_text

PACKAGE_PARENT = Path(__file__).parents[2]
CONTRACT_NAME = "Plug"  # under which a plug package names its contract


class PlugSource(NamedTuple):
    """A plug that was read and not imported.

    kind: of the plug, for example "fusion". description: the docstring of its file, or else of its
    class. constructor: stands for its class in `plug_settings` and `check_settings`.
    """

    kind: str
    description: str
    constructor: Callable


def find_source(package: str, use: object) -> PlugSource | None:
    """Read a plug of a package, for example of "wbdc.nets.fusion"; None for a plug beside a kit,
    and for one that the package lacks.
    """
    if not isinstance(use, str) or use not in _plug_files(package):
        return None
    return _read_source(package, use)


def import_source(package: str, use: str, kit_folder: Path | None = None) -> PlugSource:
    """Import a plug, for example one beside a kit, and describe it. Raises UsageFault."""
    home = import_module(package)
    plug_class = plug.find_plug(home, use, kit_folder)
    description = inspect.getdoc(inspect.getmodule(plug_class)) or inspect.getdoc(plug_class)
    return PlugSource(plug.plug_kind(home), description or "", plug_class)


def resolve_settings(package: str, table: dict, kit_folder: Path | None = None) -> dict:
    """Return the settings of a kit's table as `plug.resolve_plug` does, checked.

    Imports the plug where it lies beside the kit or does not exist. Raises UsageFault.
    """
    source = find_source(package, table.get("use"))
    if source is None:
        return plug.resolve_plug(import_module(package), table, kit_folder)[1]

    settings = {name: value for name, value in table.items() if name != "use"}
    plug.check_settings(f"{source.kind} {table['use']!r}", source.constructor, settings)
    for name, (nested_package, nested_table) in nested_tables(source, settings).items():
        nested_settings = resolve_settings(nested_package, nested_table, kit_folder)
        settings[name] = {"use": nested_table["use"], **nested_settings}
    return settings


def nested_tables(source: PlugSource, settings: dict) -> dict[str, tuple[str, dict]]:
    """Return the packages and the tables of the plugs that some settings choose, by the names of
    the settings.
    """
    packages = {
        name: plug.nested_package_name(parameter.annotation)
        for name, parameter in plug.plug_settings(source.constructor).items()
    }
    return {
        name: (package, {"use": value} if isinstance(value, str) else value)
        for name, package in packages.items()
        if package and (value := settings.get(name)) is not None
    }


@functools.cache
def _plug_files(package: str) -> frozenset[str]:
    folder = PACKAGE_PARENT.joinpath(*package.split("."))
    return frozenset(path.stem for path in folder.glob("[!_]*.py"))


@functools.cache
def _read_source(package: str, use: str) -> PlugSource:
    contract = _module_names(package).class_of_contract()
    names = _module_names(f"{package}.{use}")
    (plug_class,) = [
        node
        for node in names.tree.body
        if isinstance(node, ast.ClassDef) and contract.name in map(ast.unparse, node.bases)
    ]
    function, home = _constructor(plug_class), names
    if function is None:  # that of the contract, if it has one
        function, home = _constructor(contract), _module_names(package)
    description = ast.get_docstring(names.tree) or ast.get_docstring(plug_class) or ""
    return PlugSource(contract.name.lower(), description, _build_constructor(function, home))


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    functions = [one for one in node.body if isinstance(one, ast.FunctionDef)]
    return next((one for one in functions if one.name == "__init__"), None)


def _build_constructor(function: ast.FunctionDef | None, names: "_ModuleNames") -> Callable:
    """Build a function with the keyword-only parameters of another one; None has none."""

    def constructor() -> None:
        """Stand for the constructor."""

    arguments = function.args if function else ast.arguments(kwonlyargs=[], kw_defaults=[])
    constructor.__signature__ = inspect.Signature(
        [
            inspect.Parameter(
                argument.arg,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=names.evaluate(argument.annotation),
                default=inspect.Parameter.empty if default is None else names.evaluate(default),
            )
            for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        ]
    )
    return constructor


@functools.cache
def _module_names(module: str) -> "_ModuleNames":
    return _ModuleNames(module)


class _ModuleNames(dict):
    """The values of the names of a file, each evaluated when it is needed."""

    def __init__(self, module: str):
        super().__init__()
        self.module = module
        path = PACKAGE_PARENT.joinpath(*module.split("."))
        self.tree = ast.parse(read_text(path / "__init__.py" if path.is_dir() else f"{path}.py"))

    def evaluate(self, node: ast.expr) -> object:
        """Evaluate an annotation or a default: names, literals, unions, and what is in brackets."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self[node.id]
            case ast.Tuple():
                return tuple(map(self.evaluate, node.elts))
            case ast.List():
                return list(map(self.evaluate, node.elts))
            case ast.Dict():
                pairs = zip(node.keys, node.values, strict=True)
                return {self.evaluate(key): self.evaluate(value) for key, value in pairs}
            case ast.UnaryOp(op=ast.USub()):
                return -self.evaluate(node.operand)
            case ast.BinOp(op=ast.BitOr()):
                return self.evaluate(node.left) | self.evaluate(node.right)
            case ast.Subscript():
                return self.evaluate(node.value)[self.evaluate(node.slice)]
        raise NotImplementedError(
            f"{self.module}: the signature of a plug has {ast.unparse(node)}, which is no literal"
        )

    def class_of_contract(self) -> ast.ClassDef:
        """Return the class that this plug package names as its contract."""
        name = ast.unparse(self._assigned_value(CONTRACT_NAME))
        return next(
            node for node in self.tree.body if isinstance(node, ast.ClassDef) and node.name == name
        )

    def __missing__(self, name: str) -> object:
        self[name] = self._find(name)
        return self[name]

    def _find(self, name: str) -> object:
        assigned = self._assigned_value(name)
        if assigned is not None:
            return self.evaluate(assigned)
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return type(name, (), {"__module__": self.module})  # stands for the class
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return _imported_value(node.module, alias.name)
        return getattr(builtins, name)

    def _assigned_value(self, name: str) -> ast.expr | None:
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(one, ast.Name) and one.id == name for one in targets):
                return node.value
        return None


def _imported_value(module: str, name: str) -> object:
    root = module.partition(".")[0]
    if root == "wbdc":
        return _module_names(module)[name]
    if root not in sys.stdlib_module_names:
        raise NameError(f"{name} of {module} in the signature of a plug")
    return getattr(import_module(module), name)
