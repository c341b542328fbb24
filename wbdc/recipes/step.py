"""A step of a recipe: one command with its options."""

from dataclasses import dataclass

from wbdc.recipes.step_commands import STEP_COMMANDS, StepCommand
from wbdc.recipes.toml_values import toml_value


@dataclass(frozen=True)
class RecipeStep:
    """One command of a recipe.

    origin: where it comes from, in words. options: of the command, with values as in TOML; those
    that refer to earlier steps hold their names.
    """

    name: str
    command: str
    origin: str
    options: dict[str, object]

    @property
    def rules(self) -> StepCommand:
        """What a step of this command may have, and what it makes."""
        return STEP_COMMANDS[self.command]

    def sources(self) -> list[str]:
        """List the earlier steps that this one refers to, in order."""
        return [name for option in self.rules.references for name in self.names(option)]

    def names(self, option: str) -> list[str]:
        """List the steps that one option refers to."""
        value = self.options.get(option, [])
        return [value] if isinstance(value, str) else list(value)

    def changes(self) -> tuple[str, ...]:
        """Return the values of --set."""
        settings = self.options.get("set", {})
        return tuple(f"{key}={toml_value(value)}" for key, value in settings.items())
