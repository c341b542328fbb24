"""The Python packages that a packed folder needs: read from the imports of its files, with the
versions installed now.
"""

import ast
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import wbdc
from wbdc.core.errors import EnvironmentFault
from wbdc.core.files import read_text
from wbdc.nets.optical_flow import FLOW_INPUT

# of networks; imported in functions, because a kit is resolved without them
NETWORK_MODULES = {"open_clip", "pytorchvideo", "timm", "torchvision", "transformers"}
# of a GPU that decodes JPEGs, which is an option of a package; of the plug `regions`, which imports
# it, too
OPTIONAL_IMPORTS = {"gpu_frames.py": {"torchvision"}, "region_detector.py": {"torchvision"}}
# modality towers and what learns them: packages of a training, which a submission does not need
TRAINING_PACKAGES = {"word2vec": "gensim"}
PACKAGE_NAME = re.compile(r"[\w.-]+")  # at the start of a requirement


def needed_requirements(files: Iterable[Path], optional: Collection[str] = ()) -> str:
    """Pin the packages that Python files import at their top level: sorted lines "numpy==2.1.0".

    optional: packages that are imported inside functions, when the data need them. Raises
    EnvironmentFault when a file imports a module that no installed package provides.
    """
    modules = {name for path in files for name in _imported_modules(path)}
    modules -= {"wbdc", *sys.stdlib_module_names}
    packages = metadata.packages_distributions()
    if missing := sorted(name for name in modules if name not in packages):
        raise EnvironmentFault(
            f"files of the submission import {', '.join(missing)}, which no installed package "
            "provides; install it with pip"
        )
    return _pin_versions({packages[name][0] for name in modules} | set(optional))


def flow_packages(models: Iterable[dict]) -> list[str]:
    """List the package of OpenCV that is installed, if a tower of some models encodes optical flow.

    models: contents of model.json. Raises EnvironmentFault when it is needed and not installed.
    """
    towers = [model.get("blueprint", model).get("vision", {}) for model in models]
    if not any(tower.get("motion_input") == FLOW_INPUT for tower in towers):
        return []
    packages = metadata.packages_distributions().get("cv2", [])
    if not packages:
        raise EnvironmentFault(
            "a model encodes optical flow, which OpenCV computes; install it: pip install "
            "'wbdc[flow]'"
        )
    return [packages[0]]


def training_packages(models: Iterable[dict]) -> set[str]:
    """List the installed packages that only the training of some models needs.

    models: contents of model.json.
    """
    tables = [model.get("blueprint", model).get("modality", {}) for model in models]
    uses = {table["use"] for towers in tables for table in towers.values()}
    names = {package for use, package in TRAINING_PACKAGES.items() if use in uses}
    return {name for name in names if _installed_version(name)}


def all_requirements(optional: Collection[str] = ()) -> str:
    """Pin the installed packages that all of wbdc needs, training included, and the optional ones
    that the data need.
    """
    names = {PACKAGE_NAME.match(line)[0] for line in _wbdc_requirements()}
    return _pin_versions({name for name in names if _installed_version(name)} | set(optional))


def _wbdc_requirements() -> list[str]:
    """List what wbdc requires: from its installed metadata or, where it runs from the `source`
    folder of a package, from the requirements.txt there.
    """
    try:
        return [line for line in metadata.requires("wbdc") or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        file = Path(wbdc.__file__).parents[1] / "requirements.txt"
        if not file.is_file():
            raise EnvironmentFault(
                f"wbdc is not installed, and {file} is missing; install wbdc with pip"
            ) from None
        return read_text(file).split()


def _pin_versions(names: set[str]) -> str:
    ordered = sorted(names, key=str.lower)
    return "".join(f"{name}=={_installed_version(name)}\n" for name in ordered)


def _installed_version(name: str) -> str | None:
    """Return a version without its local part: "+cu126" exists only in an index of its own."""
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def _imported_modules(path: Path) -> set[str]:
    """List the top-level modules that a file imports when it is loaded, and those of networks that
    it imports later.
    """
    at_once, later = _find_imports(read_text(path))
    return at_once | (later & NETWORK_MODULES) - OPTIONAL_IMPORTS.get(path.name, set())


@cache
def _find_imports(source: str) -> tuple[frozenset[str], frozenset[str]]:
    """List the top-level modules that the code of a file imports when it is loaded, and those that
    it imports at any depth.
    """
    tree = ast.parse(source)
    at_once = frozenset(name for node in tree.body for name in _modules_of(node))
    return at_once, frozenset(name for node in _statements(tree) for name in _modules_of(node))


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the statements of a file at any depth; expressions, which import nothing, are not
    walked.
    """
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            queue += getattr(node, name, [])


def _modules_of(node: ast.AST) -> set[str]:
    """List the top-level modules that a statement imports; none if it imports nothing."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return {node.module.split(".")[0]}
    return set()
