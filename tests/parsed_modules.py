"""The modules of the package as syntax trees, for rules that every module keeps."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import wbdc

PACKAGE = Path(wbdc.__file__).parent
FILES = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]


@cache
def read_source(name: str) -> str:
    """Read a file of the package. name: its path below wbdc/."""
    return (PACKAGE / name).read_text(encoding="utf-8")


@cache
def parse(name: str) -> ast.Module:
    """Parse a file of the package; not on import, which every test process pays for."""
    return ast.parse(read_source(name))


def parse_modules(pattern: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the path below wbdc/ and the tree of each module whose source matches a pattern.

    pattern: of what a module needs to break the rule; parsing all modules takes seconds.
    """
    for name in FILES:
        if re.search(pattern, read_source(name)):
            yield name, parse(name)
