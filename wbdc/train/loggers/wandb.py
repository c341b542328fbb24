"""Weights & Biases: an offline run in the folder of the fold, which `wandb sync` uploads."""

import os
from pathlib import Path

from wbdc.train.loggers import Logger

PROJECT = "wbdc"


class Wandb(Logger):
    """Writes the values, and the settings of the kit as the run's configuration.

    Nothing is sent unless WANDB_MODE is set, for example to "online". WANDB_PROJECT names another
    project.
    """

    module = "wandb"
    requirement = "wandb"

    def __init__(self, folder: Path, name: str, settings: dict[str, object]):
        super().__init__(folder, name, settings)
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            dir=str(folder),
            config=settings,
            mode=None if "WANDB_MODE" in os.environ else "offline",
            # stdout belongs to the results of wbdc
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write the values of a step."""
        self.run.log(values, step=step)

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()
