"""Teachers: the models that label videos for each fold, none of which saw the fold's labels."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.files import SEAL_FILE
from wbdc.core.folders import check_name
from wbdc.ensemble.blend_weights import fit_weights
from wbdc.ensemble.geometric_weights import learn_geometric_weights
from wbdc.ensemble.likelihood_weights import true_class_likelihoods
from wbdc.ensemble.saved_ensembles import open_ensemble, run_blend
from wbdc.ensemble.shared_rows import shared_predictions
from wbdc.ensemble.variants import Variant
from wbdc.serve.blend_file import Blend
from wbdc.train.pseudo.seen_folds import model_seen_folds
from wbdc.train.runs import ALL_FOLDS, list_runs, open_run


@dataclass(frozen=True)
class Teachers:
    """A run, or the members of an ensemble, as teachers.

    name: of the run or ensemble. members: M runs with their folds. weights: (M,), their weights in
    the blend. blend: how they are served; fold_count: of the data.
    """

    name: str
    members: list[Variant]
    weights: np.ndarray
    blend: Blend
    fold_count: int

    @property
    def models(self) -> list[tuple[int, str]]:
        """The models, as pairs of the position of a member and a fold."""
        return [(i, fold) for i, member in enumerate(self.members) for fold in member.folds]

    def folders(self) -> list[Path]:
        """Return the folder of each model."""
        return [self.members[i].run.fold(fold) for i, fold in self.models]

    def folds(self) -> list[str]:
        """Return the folds that the teachers can label videos for: those that a member held out,
        and "all".
        """
        held_out = {fold for _, fold in self.models} - {ALL_FOLDS}
        return [*sorted(held_out, key=int), ALL_FOLDS]

    def model_names(self, fold: str) -> list[str]:
        """Return the names of the models that teach a fold, for example "toy-1a2b3c4d/fold-0"."""
        models = [self.models[p] for p in self.models_of(fold)]
        return [f"{self.members[i].run.name}/fold-{f}" for i, f in models]

    def models_of(self, fold: str) -> list[int]:
        """Return the positions of the models that teach a fold: those that held it out; all models
        for "all".
        """
        return [p for p, (_, held_out) in enumerate(self.models) if fold in (held_out, ALL_FOLDS)]

    def seen_folds(self, fold: str) -> set[str]:
        """Return the folds whose labels the teachers of a fold saw."""
        models = [self.models[p] for p in self.models_of(fold)]
        count = self.fold_count
        return set().union(*(model_seen_folds(self.members[i].run, f, count) for i, f in models))

    def identity(self) -> dict:
        """Return what determines the teachers: runs, folds and settings, but no learned number.

        So pseudo-labels that are made again on another machine keep their hash.
        """
        members = [
            {"run": m.run.name, "folds": sorted(m.folds), "serve": m.serve} for m in self.members
        ]
        settings = {key: self.blend.settings.get(key) for key in ("folds", "precision", "mean")}
        return {"members": members, **settings}


def open_teachers(work: Path, name: str, fold_count: int) -> Teachers:
    """Open a run or an ensemble by its name. Raises UsageFault, IntegrityFault."""
    is_ensemble = (work / "ensembles" / check_name(name, "--from") / SEAL_FILE).is_file()
    is_run = (work / "runs" / name).is_dir()
    if is_ensemble and is_run:
        raise UsageFault(f"{name!r} names a run and an ensemble; rename the ensemble")
    if not is_ensemble and not is_run:
        names = [run.name for run in list_runs(work)]
        names += sorted(
            path.parent.name for path in (work / "ensembles").glob(f"[!.]*/{SEAL_FILE}")
        )
        raise UsageFault(f"no run or ensemble called {name!r}{suggest_name(name, names)}")
    blend = open_ensemble(work, name)[1] if is_ensemble else run_blend(work, open_run(work, name))
    if blend.outside:
        raise UsageFault(
            f"ensemble {name} has members from outside wbdc ({blend.outside[0].name}), which "
            "cannot label videos; make an ensemble without them"
        )

    folds: dict[str, list[str]] = {}
    weights: dict[str, float] = {}
    serves: dict[str, dict] = {}
    for member in blend.members:
        folds.setdefault(member.run, []).append(member.fold)
        weights[member.run] = weights.get(member.run, 0.0) + member.weight
        serves[member.run] = member.serve
    members = [Variant(open_run(work, run), tuple(folds[run]), serves[run]) for run in folds]
    return Teachers(name, members, np.array(list(weights.values())), blend, fold_count)


def check_teachers(teachers: Teachers, fold: str) -> None:
    """Raise UsageFault for a fold that no teacher held out, or whose labels one of them saw."""
    if fold not in teachers.folds():
        raise UsageFault(
            f"no model of {teachers.name} held out fold {fold}, so none may label videos for it; "
            f"the folds are {', '.join(teachers.folds())}; train fold {fold} first"
        )
    if fold != ALL_FOLDS and fold in teachers.seen_folds(fold):
        names = [
            f"{teachers.members[i].run.name}/fold-{held_out}"
            for i, held_out in (teachers.models[p] for p in teachers.models_of(fold))
            if fold in model_seen_folds(teachers.members[i].run, held_out, teachers.fold_count)
        ]
        raise UsageFault(
            f"{names[0]} saw the labels of fold {fold}: through its pretraining, its teachers, or "
            "by selecting its weights on that fold; leave it out, or make labels for the whole "
            "training alone with --fold all"
        )


class FoldWeights(NamedTuple):
    """values: {position of a model: weight}; sharpness: of their geometric mean, 0 for the
    arithmetic one.
    """

    values: dict[int, float]
    sharpness: float


def fold_weights(
    teachers: Teachers, fold: str, read_oof: Callable[[int], pl.DataFrame]
) -> FoldWeights:
    """Return the weights of the models that label unlabeled videos for a fold.

    For "all", the weights of the blend. For another fold, weights that are learned without the
    labels of the fold, on the other folds' out-of-fold predictions; equal ones where there are
    none. read_oof: returns the out-of-fold predictions of a member, by its position.
    """
    positions = teachers.models_of(fold)
    members = [teachers.models[p][0] for p in positions]
    if fold == ALL_FOLDS:
        values = [teachers.weights[i] / len(teachers.members[i].folds) for i in members]
        return FoldWeights(dict(zip(positions, values, strict=True)), teachers.blend.sharpness)
    weights, sharpness = _learn_weights(teachers, members, fold, read_oof)
    return FoldWeights(dict(zip(positions, weights.tolist(), strict=True)), sharpness)


def _learn_weights(
    teachers: Teachers, members: list[int], fold: str, read_oof: Callable[[int], pl.DataFrame]
) -> tuple[np.ndarray, float]:
    """Return the weights of a fold's models, and the sharpness of their mean, as the blend's."""
    equal = np.full(len(members), 1 / len(members))
    if len(members) == 1:
        return equal, 0.0
    tables = [read_oof(i) for i in members]
    other_folds = set.intersection(*(set(table["fold"].unique()) for table in tables)) - {fold}
    if not other_folds:
        return equal, 0.0
    runs = [teachers.members[i].run for i in members]
    shared = shared_predictions(runs, tables, sorted(other_folds))
    if teachers.blend.sharpness:
        fitted = learn_geometric_weights(shared.members, shared.truth)
        return fitted.values, fitted.sharpness
    return fit_weights(true_class_likelihoods(shared.members, shared.truth)).values, 0.0
