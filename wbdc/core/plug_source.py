"""The settings and the class attributes of a plug of the package, read from the text of its file:
nothing is imported, least of all torch.

The file defines one class with a constructor, as `wbdc.core.plug` describes. Annotations and
defaults are evaluated; a name in them is a builtin, a constant of the file, or one that the file
imports from another file of the package or from the standard library.
"""

import ast
import builtins
import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from wbdc.core import plug
from wbdc.core.files import read_text

PACKAGE_PARENT = Path(__file__).parents[2]
# of the packaged kits: the folder of a wheel or, without it, that of a checkout
PACKAGED_KIT_FOLDERS = [
    folder
    for folder in (PACKAGE_PARENT / "wbdc" / "kits", PACKAGE_PARENT / "kits")
    if folder.is_dir()
][:1]
CONTRACT_NAME = "Plug"  # under which a plug package names its contract


class PlugSource(NamedTuple):
    """A plug that was read and not imported.

    kind: of the plug, for example "fusion". description: the docstring of its file, or else of its
    class. constructor: stands for its class in `plug_settings` and `check_settings`.
    """

    kind: str
    description: str
    constructor: Callable


def find_source(package: str, use: object, kit_folder: Path | None = None) -> PlugSource | None:
    """Read a plug of a package, for example of "wbdc.nets.fusion", or one beside a packaged kit;
    None for a plug beside another kit, and for one that does not exist.
    """
    path = _source_path(package, use, kit_folder)
    return _read_source(package, path) if path else None


def has_plug(package: str, name: str) -> bool:
    """Return whether a package has a plug of a name."""
    return name in _plug_files(package)


def import_source(package: str, use: str, kit_folder: Path | None = None) -> PlugSource:
    """Import a plug, for example one beside a kit, and describe it. Raises UsageFault."""
    home = import_module(package)
    plug_class = plug.find_plug(home, use, kit_folder)
    description = inspect.getdoc(inspect.getmodule(plug_class)) or inspect.getdoc(plug_class)
    return PlugSource(plug.plug_kind(home), description or "", plug_class)


def resolve_settings(package: str, table: dict, kit_folder: Path | None = None) -> dict:
    """Return the settings of a kit's table as `plug.resolve_plug` does, checked.

    Imports a plug that `find_source` does not read. Raises UsageFault.
    """
    source = find_source(package, table.get("use"), kit_folder)
    if source is None:
        return plug.resolve_plug(import_module(package), table, kit_folder)[1]

    settings = {name: value for name, value in table.items() if name != "use"}
    plug.check_settings(f"{source.kind} {table['use']!r}", source.constructor, settings)
    for name, (nested_package, nested_table) in nested_tables(source, settings).items():
        nested_settings = resolve_settings(nested_package, nested_table, kit_folder)
        settings[name] = {"use": nested_table["use"], **nested_settings}
    return settings


def plug_attribute(package: str, use: str, name: str, kit_folder: Path | None = None) -> object:
    """Return a class attribute of a plug, which its class or the contract sets to a literal.

    Imports a plug that `find_source` does not read. Raises UsageFault.
    """
    path = _source_path(package, use, kit_folder)
    if path is None:
        return getattr(plug.find_plug(import_module(package), use, kit_folder), name)
    for home, node in _lineage_of_plug(package, path):
        value = _value_in(node.body, name)
        if value is not None:
            return home.evaluate(value)
    raise AttributeError(f"{path} and its contract do not set {name}")


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
def _plug_files(package: str) -> dict[str, Path]:
    return {path.stem: path for path in _module_path(package).parent.glob("[!_]*.py")}


def _source_path(package: str, use: object, kit_folder: Path | None) -> Path | None:
    """Return the file of a plug that is read; None for one that is imported, or does not exist."""
    if not isinstance(use, str) or not use.endswith(".py"):
        return _plug_files(package).get(use)
    path = Path(os.path.abspath((kit_folder or Path()) / use))
    is_packaged = any(path.is_relative_to(folder) for folder in PACKAGED_KIT_FOLDERS)
    return path if is_packaged and path.is_file() else None


@functools.cache
def _read_source(package: str, path: Path) -> PlugSource:
    lineage = _lineage_of_plug(package, path)
    # its own constructor, or else that of the next class that has one
    constructors = ((_constructor(node), home) for home, node in lineage)
    function, home = next((pair for pair in constructors if pair[0]), (None, lineage[0][0]))
    names, plug_class = lineage[0]
    description = ast.get_docstring(names.tree) or ast.get_docstring(plug_class) or ""
    _, contract = lineage[-1]
    return PlugSource(contract.name.lower(), description, _build_constructor(function, home))


def _lineage_of_plug(package: str, path: Path) -> "list[tuple[_ModuleNames, ast.ClassDef]]":
    """Return the class of a plug and those that it inherits from, up to the contract of its
    package, each with the names of its file.
    """
    contract_names = _module_names(_module_path(package))
    contract = contract_names.class_of_contract()
    names = _module_names(path)
    classes = [node for node in names.tree.body if isinstance(node, ast.ClassDef)]
    (lineage,) = filter(None, (_lineage(names, node, contract) for node in classes))
    return lineage


def _lineage(
    names: "_ModuleNames", node: ast.ClassDef, contract: ast.ClassDef
) -> "list[tuple[_ModuleNames, ast.ClassDef]]":
    """Return a class and those that it inherits from, up to a contract; [] if it does not."""
    if node is contract:
        return [(names, node)]
    for base in node.bases:
        home, parent = names.find_class(ast.unparse(base))
        if parent and (above := _lineage(home, parent, contract)):
            return [(names, node), *above]
    return []


def _value_in(body: Sequence[ast.stmt], name: str) -> ast.expr | None:
    """Return the expression that a file or a class assigns to a name; None where it does not."""
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(one, ast.Name) and one.id == name for one in targets):
            return node.value
    return None


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
def _module_names(path: Path) -> "_ModuleNames":
    return _ModuleNames(path)


def _module_path(module: str) -> Path:
    """Return the file of a module of wbdc."""
    path = PACKAGE_PARENT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


class _ModuleNames(dict):
    """The values of the names of a file, each evaluated when it is needed."""

    def __init__(self, path: Path):
        super().__init__()
        name = path.parent if path.name == "__init__.py" else path.with_suffix("")
        is_inside = name.is_relative_to(PACKAGE_PARENT / "wbdc")
        self.module = ".".join(name.relative_to(PACKAGE_PARENT).parts) if is_inside else name.name
        self.tree = ast.parse(read_text(path))

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
        name = ast.unparse(_value_in(self.tree.body, CONTRACT_NAME))
        return next(
            node for node in self.tree.body if isinstance(node, ast.ClassDef) and node.name == name
        )

    def find_class(self, name: str) -> "tuple[_ModuleNames, ast.ClassDef | None]":
        """Return a class that the file defines, or imports from wbdc, with the names of the file
        that defines it.
        """
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return self, node
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wbdc."):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return _module_names(_module_path(node.module)).find_class(alias.name)
        return self, None

    def __missing__(self, name: str) -> object:
        self[name] = self._find(name)
        return self[name]

    def _find(self, name: str) -> object:
        assigned = _value_in(self.tree.body, name)
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


def _imported_value(module: str, name: str) -> object:
    root = module.partition(".")[0]
    if root == "wbdc":
        return _module_names(_module_path(module))[name]
    if root not in sys.stdlib_module_names:
        raise NameError(f"{name} of {module} in the signature of a plug")
    return getattr(import_module(module), name)
