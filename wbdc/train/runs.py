"""Runs on disk: what identifies one, and what its folds hold."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from wbdc.competitions import Competition, open_competition
from wbdc.core.errors import IntegrityBroken, UsageFault, suggest_name
from wbdc.core.files import file_sha256, json_digest, publish_file, read_json, sealed_facts
from wbdc.core.folders import RUN_FILE
from wbdc.core.integrity import verify_seal
from wbdc.prepare.dataset import Prepared
from wbdc.train.kit import Kit

RUN_FACTS_FILE, OOF_FILE, ALL_FOLDS = RUN_FILE, "oof.parquet", "all"
RUN_SHAPE = {
    "stage": str,
    "kit": str,
    "data": str,
    "seed": int,
    "without": (str, None),
    "source": (str, None),
    "classes": [str],
    "competition": str,
}


@dataclass(frozen=True)
class Run:
    """folder: work/runs/<kit>-<hash>; facts: what run.json says (stage, kit, data, seed, without,
    source, classes).
    """

    folder: Path
    facts: dict

    @property
    def name(self) -> str:
        """The name that users and ensembles call it by."""
        return self.folder.name

    @cached_property
    def contest(self) -> Competition:
        """The competition, from the copy of its file in the first finished fold. Raises
        IntegrityBroken when that is damaged.
        """
        name = self.facts["competition"]
        folder = self.fold(next(iter(self.folds()), ALL_FOLDS))
        if name.endswith(".py"):
            verify_seal(folder, (Path(name).name,))
        return open_competition(name, folder)

    def folds(self) -> dict[str, dict]:
        """Return the finished folds and their facts: {"0": {...}, "all": {...}}."""
        found = {
            p.name.removeprefix("fold-"): sealed_facts(p)
            for p in sorted(self.folder.glob("fold-*"))
        }
        return {fold: facts for fold, facts in found.items() if facts is not None}

    def fold(self, fold: str) -> Path:
        """Return the folder of a fold."""
        return self.folder / f"fold-{fold}"

    def oof(self) -> pl.DataFrame:
        """Return the out-of-fold predictions of all finished folds: id, fold, label, p (C float32)."""
        parts = [read_oof(self.fold(f)) for f in self.folds() if f != ALL_FOLDS]
        if not parts:
            raise UsageFault(
                f"run {self.name} has no finished fold with out-of-fold predictions; train one with --fold 0"
            )
        return pl.concat(parts)


def run_name(
    stage: str, kit: Kit, prepared: Prepared, *, seed: int, without: str | None, source: str | None
) -> tuple[str, dict]:
    """Name a run by everything that determines its bits on one kind of machine, also the files that
    its kit names; list those facts.
    """
    used = {
        k: v
        for k, v in kit.saved_tables().items()
        if k not in ("about", "serve", "pretrain" if stage == "train" else "train")
    }
    facts = {
        "stage": stage,
        "kit": kit.name,
        "data": prepared.hash,
        "seed": seed,
        "without": without,
        "source": source,
    }
    name = f"{kit.name}-{json_digest(facts, used, [file_sha256(path) for path in kit.files(stage)])[:8]}"
    return f"pretrain-{name}" if stage == "pretrain" else name, facts


def list_runs(work: Path, stage: str = "train") -> list[Run]:
    """List the runs below work/runs, by name."""
    found = [
        Run(p.parent, read_run(p.parent))
        for p in sorted((work / "runs").glob(f"*/{RUN_FACTS_FILE}"))
    ]
    return [run for run in found if run.facts["stage"] == stage]


def read_run(folder: Path) -> dict:
    """Read what identifies a run. Raises IntegrityBroken when it is missing or damaged."""
    return read_json(folder / RUN_FACTS_FILE, RUN_SHAPE)


def open_run(work: Path, name: str, stage: str = "train") -> Run:
    """Open a run by its name. Raises UsageFault."""
    runs = {run.name: run for run in list_runs(work, stage)}
    if name not in runs:
        raise UsageFault(
            f"no run called {name!r} in {work / 'runs'}{suggest_name(name, list(runs))}"
        )
    return runs[name]


def read_oof(folder: Path) -> pl.DataFrame:
    """Return the out-of-fold predictions of a finished fold. Raises IntegrityBroken when they are
    damaged.
    """
    verify_seal(folder, (OOF_FILE,))
    return read_predictions(folder / OOF_FILE)


def read_predictions(path: Path) -> pl.DataFrame:
    """Read what `write_oof` wrote. Raises IntegrityBroken."""
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise IntegrityBroken(
            f"{path} cannot be read: {' '.join(str(error).split())[:200]}"
        ) from error


def write_oof(
    path: Path, ids: list[str], fold: str, labels: list[str], probabilities: np.ndarray
) -> None:
    """Publish out-of-fold predictions. probabilities: (n, C) float32."""
    p = pl.Series("p", probabilities, dtype=pl.Array(pl.Float32, probabilities.shape[1]))
    table = pl.DataFrame({"id": ids, "fold": [fold] * len(ids), "label": labels}).with_columns(p)
    publish_file(path, table.write_parquet)
