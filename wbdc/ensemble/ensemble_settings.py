"""The settings of an ensemble that do not name its members."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EnsembleSettings:
    """How members are blended and scored.

    mean: "arithmetic", "geometric", or "auto" for the one that held-out videos prefer;
    class_priors: whether class multipliers are tried; bands: bounds of class support between which
    weights may differ, () for none; draws, seed: of the bootstrap intervals. Multipliers and bands
    are used where nested cross-validation finds them better.
    """

    mean: str = "auto"
    class_priors: bool = True
    bands: tuple[int, ...] = ()
    draws: int = 1000
    seed: int = 0

    def command_words(self) -> list[str]:
        """Return the options of `wbdc ensemble` that choose these settings."""
        words = ["--seed", str(self.seed), "--draws", str(self.draws), "--mean", self.mean]
        words += [] if self.class_priors else ["--no-class-priors"]
        return [*words, "--bands", format_bands(self.bands)]


DEFAULT_SETTINGS = EnsembleSettings()


def format_bands(bounds: Sequence[int]) -> str:
    """Return the value of --bands: "10,50", or "none"."""
    return ",".join(map(str, bounds)) or "none"
