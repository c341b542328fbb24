"""Pseudo-labels on disk: for each fold, soft labels by models that never saw the fold's labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.files import SEAL_FILE, json_digest
from wbdc.core.folders import check_name
from wbdc.core.integrity import verify_seal

if TYPE_CHECKING:  # finding pseudo-labels needs no tables
    from wbdc.prepare.dataset import PreparedData
    from wbdc.train.pseudo.soft_rows import SoftRows

PSEUDO_FOLDER = "pseudo"  # of a work folder
PSEUDO_SHAPE = {
    "hash": str,
    "data": str,
    "classes": [str],
    "splits": [str],
    "settings": dict,
    "source": {"name": str, "members": [{"run": str, "folds": [str]}]},
    "folds": {str: {"rows": int, "models": [str], "seen_folds": [str]}},
    "command": str,
}


@dataclass(frozen=True)
class PseudoSet:
    """Pseudo-labels of a name. folder: work/pseudo/<name>. facts: of PSEUDO_SHAPE."""

    folder: Path
    facts: Mapping

    @property
    def name(self) -> str:
        """The name, by which kits and commands refer to the pseudo-labels."""
        return self.folder.name

    @property
    def hash(self) -> str:
        """The hash of what determines the pseudo-labels: teachers, splits, data and settings."""
        return self.facts["hash"]

    def check_fold(self, fold: str) -> None:
        """Refuse a training whose held-out videos would be scored by a student of their labels.

        Raises UsageFault when no teacher labeled the videos for `fold`, or one saw its labels.
        """
        folds = self.facts["folds"]
        if fold not in folds:
            raise UsageFault(
                f"pseudo-labels {self.name} have no labels for fold {fold}, only for "
                f"{', '.join(folds)}; train fold {fold} of their teachers, and run `wbdc pseudo` "
                "with another --name"
            )
        if fold in folds[fold]["seen_folds"] and fold != "all":
            raise UsageFault(
                f"the teachers of pseudo-labels {self.name} for fold {fold} saw the labels of that "
                "fold, so its score would be too high; make pseudo-labels from models that did not"
            )

    def seen_folds(self, fold: str) -> set[str]:
        """Return the folds whose labels the teachers of `fold` saw."""
        return set(self.facts["folds"][fold]["seen_folds"])

    def read(self, fold: str) -> "SoftRows":
        """Read the soft labels for a fold. Raises UsageFault as `check_fold` does, IntegrityFault
        for damaged files.
        """
        from wbdc.train.pseudo.soft_rows import read_soft_rows

        self.check_fold(fold)
        names = self._files(fold)
        verify_seal(self.folder, names)
        return read_soft_rows([self.folder / name for name in names])

    def digest(self, fold: str) -> str:
        """Hash the content of the labels for a fold, as their seal states it."""
        return json_digest([self.facts["files"][name] for name in self._files(fold)])

    def _files(self, fold: str) -> list[str]:
        return sorted(name for name in self.facts["files"] if name.startswith(f"fold-{fold}-"))


def part_name(fold: str, part: int) -> str:
    """Return the name of a file with a part of the labels for a fold."""
    return f"fold-{fold}-{part:05d}.parquet"


def open_pseudo(work: Path, name: str, prepared: "PreparedData | None" = None) -> PseudoSet:
    """Open finished pseudo-labels by their name.

    prepared: the data that they must belong to; None for any. Raises UsageFault when there are
    none, or for other data; IntegrityFault when their seal is damaged.
    """
    folder = work / PSEUDO_FOLDER / check_name(name, "pseudo-labels")
    if not (folder / SEAL_FILE).is_file():
        home = work / PSEUDO_FOLDER
        names = sorted(path.parent.name for path in home.glob(f"[!.]*/{SEAL_FILE}"))
        raise UsageFault(
            f"no pseudo-labels called {name!r}{suggest_name(name, names)}; make them with "
            "`wbdc pseudo`"
        )
    opened = PseudoSet(folder, verify_seal(folder, (), PSEUDO_SHAPE))
    if prepared and opened.facts["data"] != prepared.hash:
        raise UsageFault(
            f"pseudo-labels {name} belong to data {opened.facts['data']}, not {prepared.hash}; "
            "make them for these data, or choose the others with --prepared"
        )
    return opened
