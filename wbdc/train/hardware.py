"""The machine that a stage runs on."""

from dataclasses import dataclass, field

import torch

from wbdc.core.ranks import Ranks


@dataclass(frozen=True)
class Hardware:
    """Where a stage runs, and what it writes beside its results.

    threads: CPU threads of this rank. save_every: steps between saved states; 0: an epoch's steps.
    store: form of the frames that later epochs read, "auto", "jpeg" or "raw".
    loggers: names of the loggers that also receive the metrics, or paths of their files.
    ranks: the processes that train together.
    """

    device: torch.device
    threads: int
    save_every: int = 0
    store: str = "auto"
    loggers: tuple[str, ...] = ()
    ranks: Ranks = field(default_factory=Ranks)
