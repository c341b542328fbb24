"""Reading a recipe: a list of steps in TOML, every key checked."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.files import read_text
from wbdc.core.plug import matches_type
from wbdc.recipes.references import check_references
from wbdc.recipes.step import RecipeStep
from wbdc.recipes.step_commands import STEP_COMMANDS
from wbdc.train.kit_files import PACKAGED_KIT_FOLDERS, find_kit_file, kit_option

RECIPE_FILE = "recipe.toml"
RECIPE_KEYS = ("about", "origin", "step")
STEP_KEYS = ("name", "command", "origin")  # of every step
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")


@dataclass(frozen=True)
class Recipe:
    """A list of steps, checked. folder: where its kits lie beside the file."""

    name: str
    folder: Path
    about: str
    origin: str
    steps: tuple[RecipeStep, ...]

    @property
    def file_name(self) -> str:
        """The name as one file name: "wbdc2022-rank1"."""
        return self.name.replace("/", "-")

    def kit(self, step: RecipeStep) -> str | None:
        """Return the value of --kit of a step; None for a command without a kit."""
        if "kit" not in step.options:
            return None
        return kit_option(find_kit_file(step.options["kit"], self.folder))


def recipe_names() -> list[str]:
    """List the recipes in ./kits and the packaged ones: "wbdc2022/rank1"."""
    names = {
        path.parent.relative_to(home).as_posix()
        for home in (Path("kits"), *PACKAGED_KIT_FOLDERS)
        for path in home.rglob(RECIPE_FILE)
        if path.parent != home
    }
    return sorted(names)


def open_recipe(name: str) -> Recipe:
    """Read and check a recipe. Its kits are not opened.

    name: a folder, its recipe.toml, or the name of a folder in ./kits or the packaged kits. Raises
    UsageFault for a key that is unknown, unused or missing, and for a reference to no earlier step.
    """
    path = _find_recipe(name)
    title = _recipe_title(path)
    tables = _read_tables(path)
    for key in tables:
        if key not in RECIPE_KEYS:
            raise UsageFault(f"recipe {title} has no key {key!r}{suggest_name(key, RECIPE_KEYS)}")
    for key in RECIPE_KEYS:
        if not tables.get(key):
            raise UsageFault(f"recipe {title} needs {key!r}")

    listed = tables["step"]
    if not isinstance(listed, list) or not all(isinstance(table, dict) for table in listed):
        raise UsageFault(f"recipe {title}: steps are tables; begin each with [[step]]")
    steps = tuple(_read_step(title, number, table) for number, table in enumerate(listed, 1))
    check_references(title, steps)
    return Recipe(title, path.parent, str(tables["about"]), str(tables["origin"]), steps)


def _find_recipe(name: str) -> Path:
    """Find the file of a recipe. Raises UsageFault."""
    is_path = name.endswith(".toml") or name.startswith((".", "/"))
    if is_path:
        path = Path(name) if name.endswith(".toml") else Path(name) / RECIPE_FILE
        if not path.is_file():
            raise UsageFault(f"no recipe at {path}")
        return path
    for home in (Path("kits"), *PACKAGED_KIT_FOLDERS):
        path = home / name / RECIPE_FILE
        if name and path.is_file():
            return path
    raise UsageFault(f"no recipe called {name!r}{suggest_name(name, recipe_names())}")


def _recipe_title(path: Path) -> str:
    """Return the name of a recipe's file: that of its folder, below the kits where it is there."""
    absolute = path.absolute()
    for home in (Path("kits").absolute(), *PACKAGED_KIT_FOLDERS):
        if absolute.is_relative_to(home):
            return absolute.parent.relative_to(home).as_posix()
    return absolute.parent.name


def _read_tables(path: Path) -> dict:
    try:
        return tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # not UTF-8, broken syntax, or very deep values
        raise UsageFault(f"{path}: {error}") from error


def _read_step(title: str, number: int, table: dict) -> RecipeStep:
    """Read one [[step]]. number: its position, for messages. Raises UsageFault."""
    subject = f"recipe {title}, step {table.get('name', number)!r}"
    for key in STEP_KEYS:
        if not isinstance(table.get(key), str) or not table[key]:
            raise UsageFault(f"{subject} needs a text for {key!r}")
    if not set(table["name"]) <= NAME_CHARACTERS:
        raise UsageFault(f"{subject}: a name has lower-case letters, digits, '_' and '-' only")
    if table["command"] not in STEP_COMMANDS:
        suggestion = suggest_name(table["command"], list(STEP_COMMANDS))
        raise UsageFault(f"{subject}: a step runs no {table['command']!r}{suggestion}")

    options = {key: value for key, value in table.items() if key not in STEP_KEYS}
    for problem in _option_problems(table["command"], options):
        raise UsageFault(f"{subject}: {problem}")
    return RecipeStep(table["name"], table["command"], table["origin"], options)


def _option_problems(command: str, options: dict) -> Iterator[str]:
    """Yield a sentence for every option that is unknown, of a wrong type, or missing."""
    rules = STEP_COMMANDS[command]
    known = rules.known_keys()
    for key, value in options.items():
        if key not in known:
            yield f"{command} takes no {key!r}{suggest_name(key, known)}"
        elif key in rules.references:
            is_list = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
            if not isinstance(value, str) and not is_list:
                yield f"{key} = {value!r} is not the name of a step, or a list of names"
        elif not matches_type(value, rules.options[key]):
            yield f"{key} = {value!r} is not of the type {rules.options[key].__name__}"
    for key in rules.required:
        if key not in options:
            yield f"{command} needs {key!r}"
