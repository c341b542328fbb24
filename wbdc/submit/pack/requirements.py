"""What a packed folder needs installed: read from the imports of the very files it holds, with the
versions present now.
"""

import ast
import sys
from collections.abc import Collection, Iterable
from importlib import metadata
from pathlib import Path

import wbdc
from wbdc.core.errors import EnvironmentLacks
from wbdc.core.files import read_text


def needed_requirements(files: Iterable[Path], optional: Collection[str] = ()) -> str:
    """Pin what some Python files import at their top: "numpy==2.1.0" lines, sorted.

    optional: packages that are imported inside functions, when the data ask for them. Raises
    EnvironmentLacks when a file imports what is not installed here.
    """
    wanted = sorted(
        {name for path in files for name in _imports(path)} - {"wbdc", *sys.stdlib_module_names}
    )
    known = metadata.packages_distributions()
    missing = [name for name in wanted if name not in known]
    if missing:
        raise EnvironmentLacks(
            f"files of the submission import {', '.join(missing)}, which no installed package provides; install it"
        )
    return _pinned({known[name][0] for name in wanted} | set(optional))


def all_requirements(optional: Collection[str] = ()) -> str:
    """Pin what the whole of wbdc needs, training included, as far as it is installed, and the
    optional packages that the data ask for.
    """
    names = {
        "".join(c if c.isalnum() or c in "-_." else " " for c in r).split()[0] for r in _needed()
    }
    return _pinned({n for n in names if _version(n)} | set(optional))


def _needed() -> list[str]:
    """List what wbdc asks for: by its installed metadata, or, where it runs from a package's
    `source`, by the requirements.txt that lies there.
    """
    try:
        return [r for r in metadata.requires("wbdc") or [] if "extra ==" not in r]
    except metadata.PackageNotFoundError:
        beside = Path(wbdc.__file__).parents[1] / "requirements.txt"
        if not beside.is_file():
            raise EnvironmentLacks(
                f"wbdc is neither installed nor part of a package: {beside} is missing; install it with pip"
            ) from None
        return read_text(beside).split()


def _pinned(names: set[str]) -> str:
    return "".join(f"{name}=={_version(name)}\n" for name in sorted(names, key=str.lower))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name).split("+")[
            0
        ]  # +cu126 is an index of its own, which the reader may not have
    except metadata.PackageNotFoundError:
        return None


def _imports(path: Path) -> set[str]:
    """Name the top-level modules that a file imports as soon as it is loaded."""
    found = set()
    for node in ast.parse(read_text(path), str(path)).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found
