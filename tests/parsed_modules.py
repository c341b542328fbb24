"""The modules of the package as syntax trees, for rules that every module keeps."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import wbdc

PACKAGE = Path(wbdc.__file__).parent


def parse_modules(pattern: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the path below wbdc/ and the tree of each module whose source matches a pattern.

    pattern: of what a module needs to break the rule; parsing all modules takes seconds.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if re.search(pattern, source):
            yield path.relative_to(PACKAGE).as_posix(), ast.parse(source)
