"""The machine that a stage runs on."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wbdc.core.ranks import Ranks

if TYPE_CHECKING:
    import torch

    from wbdc.core.planned_device import CpuDevice


@dataclass(frozen=True)
class Hardware:
    """Where a stage runs, and what it writes beside its results.

    device: where nothing is computed, it may be a CpuDevice.
    threads: CPU threads of this rank. save_every: steps between saved states; 0: an epoch's steps.
    store: form of the frames that later epochs read, "auto", "jpeg" or "raw".
    loggers: names of the loggers that also receive the metrics, or paths of their files.
    ranks: the processes that train together.
    """

    device: "torch.device | CpuDevice"
    threads: int
    save_every: int = 0
    store: str = "auto"
    loggers: tuple[str, ...] = ()
    ranks: Ranks = field(default_factory=Ranks)
