"""Loggers: other programs that show the metrics of a training, chosen by `--logger`."""

from pathlib import Path


class Logger:
    """Receives the values of metrics.jsonl. Subclass it in a file of its own.

    The package that it needs is imported inside its methods, so that nothing imports the package
    unless the logger is chosen. What a logger raises ends the logger, not the training.

    folder: of the fold, to write into. name: of the run and the fold, for example
    "dual_stream-1a2b3c4d fold-0". settings: of the kit, by dotted names.
    module: class attribute; the module that it imports, "" for none. requirement: class attribute;
    what pip installs for it.
    """

    module = ""
    requirement = ""

    def __init__(self, folder: Path, name: str, settings: dict[str, object]):
        self.folder = folder
        self.name = name
        self.settings = settings

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log values after a step; the names are those of metrics.jsonl, as "validation/mean"."""
        raise NotImplementedError

    def close(self) -> None:
        """Finish, also when the training was stopped or has failed."""


Plug = Logger
