"""TensorBoard: event files in the folder of the fold, for `tensorboard --logdir work/runs`."""

from pathlib import Path

from wbdc.train.loggers import Logger

TENSORBOARD_FOLDER = "tensorboard"
FLUSH_SECONDS = 20


class TensorBoard(Logger):
    """Writes a scalar for each value. A resumed training hides the steps that it repeats."""

    module = "torch.utils.tensorboard"
    requirement = "tensorboard"

    def __init__(self, folder: Path, name: str, settings: dict[str, object]):
        super().__init__(folder, name, settings)
        self.writer = None

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write scalars; the first step decides what is hidden."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            log_folder = str(self.folder / TENSORBOARD_FOLDER)
            self.writer = SummaryWriter(log_folder, purge_step=step, flush_secs=FLUSH_SECONDS)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is buffered."""
        if self.writer is not None:
            self.writer.close()
