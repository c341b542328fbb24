"""Forms: a run as it was trained, or served with fewer frames or shorter texts; and what each said
of the videos it had not seen.
"""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from wbdc.competitions import Competition
from wbdc.core.device import precision_name
from wbdc.core.errors import DataInvalid, IntegrityBroken, UsageFault, suggest_name
from wbdc.core.files import add_to_seal
from wbdc.core.findings import Findings
from wbdc.core.integrity import verify_seal
from wbdc.serve.engine import Engine
from wbdc.serve.predict import MODEL_FILE, read_model
from wbdc.train.runs import ALL_FOLDS, Run, open_run, read_oof, read_predictions, write_oof

FOLD, SETTINGS = (
    "fold",
    ("frames", "length"),
)  # of serving, that may be less than a run learned from
VARIANTS_FOLDER = "served"  # below a run: what it said in other forms


class ServingHardware(NamedTuple):
    """Where models answer."""

    device: torch.device
    precision: torch.dtype
    threads: int


class Variant(NamedTuple):
    """A run with some of its finished folds; serve: {"frames", "length"} where other than it
    learned from.
    """

    run: Run
    folds: tuple[str, ...]
    serve: dict = {}

    @property
    def name(self) -> str:
        """The run's name, and what is different: "dual_stream-1a2b3c4d frames=4"."""
        told = [f"{key}={value}" for key, value in self.serve.items()]
        folds = (
            [] if len(self.folds) == len(self.run.folds()) else [f"{FOLD}={','.join(self.folds)}"]
        )
        return " ".join([self.run.name, *told, *folds])

    def models(self) -> dict[str, Path]:
        """Name the models of this form, and say where they lie."""
        return {
            " ".join(
                [f"{self.run.name}/{fold}", *(f"{k}={v}" for k, v in self.serve.items())]
            ): self.run.fold(fold)
            for fold in self.folds
        }


def full_variant(run: Run) -> Variant:
    """A run as it was trained, with all its finished folds."""
    return Variant(run, tuple(run.folds()))


def parse_variant(work: Path, name: str) -> Variant:
    """Open a form by its name: "RUN", "RUN frames=4 length=128" or "RUN fold=0". Raises UsageFault
    for what it cannot serve.
    """
    run_name, *settings = name.split() or [""]
    form, pairs = (
        full_variant(open_run(work, run_name)),
        dict(setting.partition("=")[::2] for setting in settings),
    )
    learned, known = _learned(form.run), (*SETTINGS, FOLD)
    for key, value in pairs.items():
        if key not in known:
            raise UsageFault(f"{name!r}: a run has no {key!r}{suggest_name(key, known)}")
        if key == FOLD and value not in form.folds:
            raise UsageFault(f"{name!r}: the finished folds are {', '.join(form.folds)}")
        if key in SETTINGS and not (value.isdecimal() and 0 < int(value) < learned[key]):
            raise UsageFault(
                f"{name!r}: {key} is a number under the {learned[key]} that the run learned from"
            )
    return form._replace(
        folds=(pairs[FOLD],) if FOLD in pairs else form.folds,
        serve={key: int(pairs[key]) for key in SETTINGS if key in pairs},
    )


def list_variants(run: Run, frames: Sequence[int], lengths: Sequence[int]) -> list[Variant]:
    """List a run as it was trained, and with fewer frames or shorter texts, as far as that is less
    than it learned from.
    """
    learned, asked = _learned(run), product([None, *frames], [None, *lengths])
    served = [
        {k: v for k, v in zip(SETTINGS, values) if v is not None and v < learned[k]}
        for values in asked
    ]
    return [
        full_variant(run)._replace(serve=dict(how))
        for how in dict.fromkeys(tuple(s.items()) for s in served)
    ]


def _learned(run: Run) -> dict[str, int]:
    """Say how many frames and tokens a run learned from. Raises UsageFault when no fold is
    finished.
    """
    if not run.folds():
        raise UsageFault(f"run {run.name} has no finished fold; train one with --fold 0")
    folder = run.fold(next(iter(run.folds())))
    verify_seal(folder, (MODEL_FILE,))
    model = read_model(folder)
    return {
        "frames": model["blueprint"]["vision"].get("frames") or 0,
        "length": model["text"]["length"],
    }


def out_of_fold_predictions(
    form: Variant,
    data: Path,
    contest: Competition,
    machine: ServingHardware,
    progress: Callable[[str, int, int], None],
    *,
    own: bool = True,
) -> pl.DataFrame:
    """Return what a form says of the videos that its run held out, whichever of its folds it serves
    with: id, fold, label, p. own: whether that is in the precision that training judged. Answered
    once by the engine, then kept beside the run.
    """
    if not form.serve and own:
        return form.run.oof()
    told = "-".join(
        [
            *(f"{k}={v}" for k, v in form.serve.items()),
            *([] if own else [f"precision={precision_name(machine.precision)}"]),
        ]
    )
    tables = []
    for fold in form.run.folds():
        if fold == ALL_FOLDS:
            continue
        path = form.run.folder / VARIANTS_FOLDER / told / f"fold-{fold}.parquet"
        if not _is_intact(path):  # answered again: nothing else depends on these bytes
            _answer(path, form, fold, data, contest, machine, progress)
            add_to_seal(path.parent, path)
        tables.append(read_predictions(path))
    if not tables:
        raise UsageFault(
            f"run {form.run.name} held out no video in {form.name!r}; train a fold with --fold 0"
        )
    return pl.concat(tables)


def _is_intact(path: Path) -> bool:
    try:
        return bool(verify_seal(path.parent, (path.name,)))
    except IntegrityBroken:
        return False


def _answer(
    path: Path,
    form: Variant,
    fold: str,
    data: Path,
    contest: Competition,
    machine: ServingHardware,
    progress: Callable[[str, int, int], None],
) -> None:
    held = read_oof(form.run.fold(fold))
    videos = {v.id: v for v in contest.videos(data, contest.labeled_split, Findings())}
    if missing := [i for i in held["id"].to_list() if i not in videos]:
        raise DataInvalid(
            f"{data} lacks {len(missing)} videos that {form.run.name} learned from, first {missing[0]}; give the data it was prepared from"
        )
    engine = Engine([form.run.fold(fold)], [1.0], *machine, served=[form.serve])
    answers = engine.answer(
        [videos[i] for i in held["id"]],
        lambda done, of: progress(f"{form.name}, fold {fold}", done, of),
    )
    write_oof(
        path,
        held["id"].to_list(),
        fold,
        held["label"].to_list(),
        answers.probabilities.astype(np.float32),
    )
