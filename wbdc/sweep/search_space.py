"""The space of a sweep: which settings of a kit vary, and between which values."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wbdc.core.errors import UsageFault
from wbdc.core.files import read_text
from wbdc.recipes.toml_values import toml_value

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

RANGE_KEYS = {"low", "high", "log", "step"}
STEP_DIGITS = 12  # of a value after whole steps


@dataclass(frozen=True)
class Choices:
    """A setting that takes one of some values. texts: the values as TOML writes them."""

    texts: tuple[str, ...]

    def suggest(self, name: str, trial: "BaseTrial") -> str:
        """Return the value of a trial, as TOML writes it."""
        return trial.suggest_categorical(name, self.texts)

    @property
    def first(self) -> str:
        """A value of the space."""
        return self.texts[0]


@dataclass(frozen=True)
class NumberRange:
    """A setting that takes a number from `low` to `high`, both included.

    log: equal ratios are equally likely; step: the distance of allowed values, None for any (1 for
    integers).
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, name: str, trial: "BaseTrial") -> str:
        """Return the value of a trial, as TOML writes it."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = self.step or 1
            return str(trial.suggest_int(name, self.low, self.high, step=step, log=self.log))
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        # 3 * 0.1 is 0.30000000000000004
        return toml_value(value if self.step is None else round(value, STEP_DIGITS))

    @property
    def first(self) -> str:
        """A value of the space."""
        return toml_value(self.low)


SearchSpace = dict[str, Choices | NumberRange]  # {"train.epochs": ...}


def read_space(path: Path) -> SearchSpace:
    """Read the file of a space: a TOML file of settings, each a list of values or a table with low
    and high.

    Raises UsageFault for a file that is not TOML, an empty space and a range that is not valid.
    """
    try:
        tables = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageFault(f"{path} is not valid TOML: {error}") from error

    space = dict(_settings(path, "", tables))
    if not space:
        raise UsageFault(
            f"{path} names no setting; write, for example, [train] and epochs = [10, 20]"
        )
    return space


def trial_changes(space: SearchSpace, trial: "BaseTrial") -> tuple[str, ...]:
    """Return the values of a trial as the kit's --set takes them: ("train.epochs=10", ...)."""
    return tuple(f"{name}={setting.suggest(name, trial)}" for name, setting in space.items())


def first_changes(space: SearchSpace) -> tuple[str, ...]:
    """Return one point of the space, to check that the kit has these settings."""
    return tuple(f"{name}={setting.first}" for name, setting in space.items())


def _settings(path: Path, name: str, value: object) -> list[tuple[str, Choices | NumberRange]]:
    """Return the settings in a part of the file. name: of that part, "" for the whole file."""
    if isinstance(value, list):
        return [(name, _choices(path, name, value))]
    if not isinstance(value, dict):
        raise UsageFault(
            f"{path}: {name} = {value!r} does not vary; write a list of values, or a table with "
            "low and high"
        )
    if value.keys() & {"low", "high"}:
        return [(name, _range(path, name, value))]
    return [
        entry
        for key, inner in value.items()
        for entry in _settings(path, f"{name}.{key}" if name else key, inner)
    ]


def _choices(path: Path, name: str, values: list) -> Choices:
    texts = tuple(dict.fromkeys(map(toml_value, values)))
    if len(texts) < 2:
        raise UsageFault(f"{path}: {name} has {len(texts)} value; list two or more, or remove it")
    return Choices(texts)


def _range(path: Path, name: str, table: dict) -> NumberRange:
    if unknown := sorted(table.keys() - RANGE_KEYS):
        raise UsageFault(
            f"{path}: {name} has {unknown[0]!r}, which a range does not take; it takes "
            f"{', '.join(sorted(RANGE_KEYS))}"
        )
    low, high = table.get("low"), table.get("high")
    if not (_is_number(low) and _is_number(high)) or not low < high:
        raise UsageFault(f"{path}: {name} needs numbers low < high, got {low!r} and {high!r}")
    is_log = table.get("log", False)
    step = table.get("step")
    if not isinstance(is_log, bool) or (is_log and low <= 0):
        raise UsageFault(f"{path}: {name} with log = {is_log!r} needs true or false, and low > 0")
    if step is not None and (is_log or not _is_number(step) or step <= 0):
        raise UsageFault(f"{path}: {name}.step must be a number above 0, without log")
    return NumberRange(low, high, is_log, step)


def _is_number(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
