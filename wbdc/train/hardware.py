"""The machine that a stage runs on."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Hardware:
    """Where a stage runs, and how it uses the disk.

    threads: CPU threads. save_every: steps between saved states; 0: an epoch's steps.
    store: form of the frames that later epochs read, "auto", "jpeg" or "raw".
    """

    device: torch.device
    threads: int
    save_every: int = 0
    store: str = "auto"
