"""Making pseudo-labels: in parts, each published at once, so that a killed command continues."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from wbdc.core.errors import UsageFault
from wbdc.core.files import (
    json_digest,
    list_files,
    lock_folder,
    publish_json,
    read_json,
    seal_folder,
    sealed_facts,
)
from wbdc.core.folders import check_name
from wbdc.core.integrity import verify_seal
from wbdc.core.progress import ProgressCallback
from wbdc.ensemble.pseudo.label_options import LabelOptions, check_label_options
from wbdc.ensemble.pseudo.teachers import Teachers
from wbdc.prepare.dataset import PreparedData
from wbdc.train.pseudo.pseudo_set import PSEUDO_FOLDER, PSEUDO_SHAPE, part_name
from wbdc.train.pseudo.soft_rows import SoftRows, read_soft_rows, top_classes, write_soft_rows

PLAN_FILE = "plan.json"  # of pseudo-labels that are not finished yet: their hash
ROWS_PER_PART = 2**13  # of 8 models with 200 classes, 52 MB of probabilities


class Labeler(Protocol):
    """Labels videos by the teachers of each fold."""

    def label(
        self, split: str, ids: Sequence[str], held_out: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Return {fold: (n, C) float32}; a row of zeros is a video without a label.

        held_out: (n,) str, the fold of each labeled video; None for a split without labels.
        """


@dataclass(frozen=True)
class PseudoPlan:
    """Pseudo-labels to make. folder: work/pseudo/<name>. hash: of what determines them."""

    folder: Path
    hash: str
    teachers: Teachers
    prepared: PreparedData
    options: LabelOptions

    @property
    def is_finished(self) -> bool:
        """Whether these pseudo-labels are on disk."""
        return (sealed_facts(self.folder) or {}).get("hash") == self.hash

    def command(self) -> str:
        """Return the command that makes them again, without --work."""
        options = self.options
        words = ["wbdc", "pseudo", "--from", self.teachers.name, "--name", self.folder.name]
        for split in options.splits:
            words += ["--split", split]
        words += ["--fold", ",".join(options.folds), "--how", options.method]
        words += ["--top-k", str(options.top_k)] if options.top_k else []
        words += ["--neighbors", str(options.neighbors)] if options.neighbors else []
        words += ["--temperature", f"{options.temperature:g}", "--prepared", self.prepared.hash]
        return shlex.join(words)


class Part(NamedTuple):
    """Videos that are labeled together. held_out: as in `Labeler`."""

    number: int
    split: str
    ids: list[str]
    held_out: np.ndarray | None


def plan_pseudo(
    work: Path, name: str, teachers: Teachers, prepared: PreparedData, options: LabelOptions
) -> PseudoPlan:
    """Resolve pseudo-labels before anything is computed. Writes nothing.

    Raises UsageFault for options that do not fit, and for a name that other pseudo-labels have.
    """
    check_label_options(options, teachers, prepared)
    folder = work / PSEUDO_FOLDER / check_name(name, "--name")
    identity = {
        "data": prepared.hash,
        "teachers": teachers.identity(),
        "splits": options.splits,
        "folds": options.folds,
        **options.settings(),
    }
    plan = PseudoPlan(folder, json_digest(identity), teachers, prepared, options)
    if sealed_facts(folder) is not None and not plan.is_finished:
        raise UsageFault(
            f"{folder} holds pseudo-labels of other teachers or settings, which runs may name; "
            "choose another --name, or delete that folder"
        )
    return plan


def make_pseudo(
    plan: PseudoPlan,
    build_labeler: Callable[[], Labeler],
    progress: ProgressCallback,
    log: Callable[[str], None],
) -> dict:
    """Label the videos of a plan for each fold, seal the folder, and return its facts.

    Returns at once when it is finished. Parts that a killed command has finished are not labeled
    again. Raises FolderInUse and what the labeler raises.
    """
    if plan.is_finished:
        log(f"pseudo-labels {plan.folder.name} are already made; they are reused")
        return verify_seal(plan.folder, shape=PSEUDO_SHAPE)

    with lock_folder(plan.folder):
        _remove_other_parts(plan)
        parts = list(_list_parts(plan))
        total = sum(len(part.ids) for part in parts)
        missing = [part for part in parts if not all(p.is_file() for p in _paths(plan, part))]
        if len(missing) < len(parts):
            log(f"resumes with {len(missing)} of {len(parts)} parts")
        done = total - sum(len(part.ids) for part in missing)
        labeler = build_labeler() if missing else None
        for part in missing:
            _write_part(plan, part, labeler.label(part.split, part.ids, part.held_out))
            done += len(part.ids)
            progress(f"pseudo-labels {plan.folder.name}", done, total)
        _finish(plan)
    return verify_seal(plan.folder, shape=PSEUDO_SHAPE)


def _remove_other_parts(plan: PseudoPlan) -> None:
    """Remove what a killed command with other settings left, and note this plan's hash."""
    path = plan.folder / PLAN_FILE
    if path.is_file() and read_json(path, {"hash": str})["hash"] == plan.hash:
        return
    for part in plan.folder.glob("fold-*.parquet"):
        part.unlink()
    publish_json(path, {"hash": plan.hash})


def _list_parts(plan: PseudoPlan) -> Iterator[Part]:
    """Yield the videos to label, in the order of the prepared data."""
    number = 0
    for split in plan.options.splits:
        ids = plan.prepared.read_split(split, ["id"])["id"].to_list()
        is_labeled = split == plan.prepared.facts.labeled_split
        folds = plan.prepared.read_folds().astype(str) if is_labeled else None
        for start in range(0, len(ids), ROWS_PER_PART):
            rows = slice(start, start + ROWS_PER_PART)
            yield Part(number, split, ids[rows], None if folds is None else folds[rows])
            number += 1


def _paths(plan: PseudoPlan, part: Part) -> list[Path]:
    return [plan.folder / part_name(fold, part.number) for fold in plan.options.folds]


def _write_part(plan: PseudoPlan, part: Part, labels: dict[str, np.ndarray]) -> None:
    """Write the labels of some videos, one file for each fold."""
    for fold, probabilities in labels.items():
        rows = np.flatnonzero(probabilities.any(1))
        options = plan.options
        count = options.top_k or probabilities.shape[1]
        codes, values = top_classes(probabilities[rows], count, options.label_temperature)
        ids = [part.ids[i] for i in rows]
        path = plan.folder / part_name(fold, part.number)
        write_soft_rows(path, SoftRows(ids, [part.split] * len(ids), codes, values))


def _finish(plan: PseudoPlan) -> None:
    """Seal the folder of pseudo-labels whose parts are complete."""
    teachers = plan.teachers
    folds = {}
    for fold in plan.options.folds:
        paths = sorted(plan.folder.glob(f"fold-{fold}-*.parquet"))
        rows = read_soft_rows(paths)
        confidence = float(rows.probabilities[:, 0].mean()) if rows.ids else 0.0
        folds[fold] = {
            "rows": len(rows.ids),
            "confidence": round(confidence, 4),
            "models": teachers.model_names(fold),
            "seen_folds": sorted(teachers.seen_folds(fold)),
        }
    facts = {
        "hash": plan.hash,
        "data": plan.prepared.hash,
        "classes": plan.prepared.facts.classes,
        "splits": list(plan.options.splits),
        "settings": plan.options.settings(),
        "source": {
            "name": teachers.name,
            "is_run": bool(teachers.blend.run),
            "blend": teachers.blend.settings,
            "members": teachers.identity()["members"],
        },
        "folds": folds,
        "command": plan.command(),
    }
    (plan.folder / PLAN_FILE).unlink()
    seal_folder(plan.folder, facts, [p for p in list_files(plan.folder) if p.suffix == ".parquet"])
