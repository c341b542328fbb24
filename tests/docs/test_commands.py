"""Commands and options that the documents name exist, and every command is documented."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest

from wbdc.cli import main
from wbdc.train.kit_files import _parse_change

HOME = Path(__file__).parents[2]
DOCUMENTS = sorted([*HOME.glob("*.md"), *HOME.glob("docs/*.md"), HOME / "submissions/README.md"])
COMMAND = re.compile(r"(?:^|`|&& |do )wbdc ([a-z]+)\b([^`\n#;]*)", re.MULTILINE)


def command_options(name: str) -> set[str]:
    """List the options of a command; of a group, those of all its commands."""
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"there is no command wbdc {name}"
    commands = [command, *getattr(command, "commands", {}).values()]
    parameters = [parameter for one in commands for parameter in one.params]
    return {option for p in parameters for option in (*p.opts, *p.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(HOME)))
def test_commands_and_options_that_are_named_exist(path):
    unknown = []
    for name, words in COMMAND.findall(path.read_text(encoding="utf-8")):
        known = command_options(name)
        unknown += [f"{name} {o}" for o in re.findall(r"--[a-z-]+", words) if o not in known]
    assert unknown == []


def fenced_commands(path: Path) -> Iterator[list[str]]:
    """Yield the words of each command `wbdc ...` of the code blocks of a page."""
    parts = re.split(r"^ *```.*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for block in parts[1::2]:
        lines = iter(block.splitlines())
        for line in lines:
            if not re.match(r" *(?:\$ )?wbdc [a-z]", line):
                continue
            while line.count("'") % 2 or line.endswith("\\"):
                line += "\n" + next(lines)
            yield shlex.split(line, comments=True)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(HOME)))
def test_commands_of_code_blocks_have_their_required_options_and_valid_changes(path):
    for words in fenced_commands(path):
        command = main.get_command(click.Context(main), words[words.index("wbdc") + 1])
        required = [p for p in command.params if isinstance(p, click.Option) and p.required]
        missing = [p.name for p in required if not set(p.opts) & {w.split("=")[0] for w in words}]
        assert not missing, f"{' '.join(words)} lacks {missing}"
        for option, change in pairwise(words):
            if option == "--set":
                assert _parse_change(change)


def test_every_command_is_in_the_table_of_commands():
    text = (HOME / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [
        n for n in main.list_commands(click.Context(main)) if f"| `wbdc {n}` |" not in text
    ] == []


def test_the_table_of_exit_codes_is_complete():
    from wbdc.core import errors

    text = (HOME / "docs" / "commands.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    codes = {e.code for e in vars(errors).values() if isinstance(e, type) and hasattr(e, "code")}
    assert listed == codes | {0}
