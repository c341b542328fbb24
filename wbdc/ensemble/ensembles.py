"""Ensembles on disk: made from runs' out-of-fold predictions, saved as a blend that prediction and
packing read.
"""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from wbdc.competitions import Competition, open_competition
from wbdc.core.errors import IntegrityBroken, UsageFault, suggest_name
from wbdc.core.files import SEAL_FILE, publish_json, read_json, seal_folder, sealed_facts
from wbdc.core.folders import check_name, publish_folder
from wbdc.core.integrity import repair_command, verify_seal
from wbdc.ensemble.assess import assess_ensemble
from wbdc.ensemble.evaluation import label_scorer, nested_blend, paired_gain
from wbdc.ensemble.priors.class_multipliers import assess_multipliers
from wbdc.ensemble.variants import Variant, full_variant, parse_variant
from wbdc.prepare.dataset import PreparedData
from wbdc.serve.blend_file import BLEND_FILE, Blend, BlendMember, read_blend, write_blend
from wbdc.serve.predict import MODEL_FILE, read_model
from wbdc.train.runs import ALL_FOLDS, Run, list_runs

ENSEMBLE_FILE = "ensemble.json"


class SharedPredictions(NamedTuple):
    """What members predicted on the rows that all of them held out. members: (M, n, C) float32;
    labels, folds: n strings each.
    """

    members: np.ndarray
    labels: list[str]
    folds: list[str]


def shared_predictions(
    runs: list[Run], tables: list[pl.DataFrame] | None = None, only: Sequence[str] = ()
) -> SharedPredictions:
    """Lay out-of-fold predictions of runs side by side on their common folds, row by row. Raises
    UsageFault when data or folds differ.

    tables: what members said, where it is not what their runs said. only: take these folds alone.
    """
    if other := [
        f"{r.name} (data {r.facts.data})" for r in runs if r.facts.data != runs[0].facts.data
    ]:
        raise UsageFault(
            f"data or folds differ: {runs[0].name} learned on {runs[0].facts.data}, but {', '.join(other)}; take runs of one prepared dataset"
        )
    tables = [run.oof() for run in runs] if tables is None else tables
    folds = set.intersection(*(set(t["fold"].unique()) for t in tables))
    if not folds:
        raise UsageFault(
            f"the runs share no finished fold: {', '.join(f'{r.name} has {sorted(r.folds())}' for r in runs)}; train a common one"
        )
    if lacking := [fold for fold in only if fold not in folds]:
        raise UsageFault(
            f"not every run has fold {lacking[0]}; the folds that all of them share are {', '.join(sorted(folds))}"
        )
    folds = set(only) or folds
    tables = [t.filter(t["fold"].is_in(sorted(folds))).sort("id") for t in tables]
    if any(t["id"].to_list() != tables[0]["id"].to_list() for t in tables):
        raise UsageFault("the runs' held-out videos differ; train them on the same prepared data")
    return SharedPredictions(
        np.stack([t["p"].to_numpy() for t in tables]),
        tables[0]["label"].to_list(),
        tables[0]["fold"].to_list(),
    )


def compare_runs(run: Run, other: Run, *, draws: int = 1000, seed: int = 0) -> dict:
    """Score two runs on their common rows, and their difference by a paired bootstrap over videos.

    Returns {"rows", "scores": {name: components}, "difference", "low", "high", "verdict"}. Raises
    UsageFault as `common` does.
    """
    shared, classes = shared_predictions([run, other]), run.facts.classes
    contest = run.contest
    said = [[classes[i] for i in member.argmax(1)] for member in shared.members]
    found = paired_gain(
        *(label_scorer(contest, shared.labels, s, classes) for s in said),
        len(shared.labels),
        draws=draws,
        seed=seed,
    )
    scores = {r.name: contest.score(shared.labels, s, classes) for r, s in zip((run, other), said)}
    return {
        "rows": len(shared.labels),
        "scores": scores,
        **found._asdict(),
        "verdict": found.verdict,
    }


def choose_runs(
    work: Path, names: tuple[str, ...], prepared: PreparedData
) -> tuple[list[Variant], list[str]]:
    """Return the members asked for, runs or forms of them, or every finished run of the prepared
    data that is no ablation; and sentences on those left out.

    Raises UsageFault when a run asked for does not exist, or nothing is left.
    """
    if names:
        asked = [parse_variant(work, name) for name in dict.fromkeys(names)]
        if twice := [
            run for run, count in Counter(form.run.name for form in asked).items() if count > 1
        ]:
            raise UsageFault(
                f"run {twice[0]} is asked for in several forms; an ensemble takes one of them"
            )
        return asked, []
    kept, left = [], []
    for run in list_runs(work):
        if why := _unfit(run, prepared):
            left.append(f"{run.name} is left out: {why}")
        else:
            kept.append(full_variant(run))
    if not kept:
        raise UsageFault(
            f"{work / 'runs'} holds no finished fold on data {prepared.hash}; run `wbdc train --kit dual_stream --fold 0` first"
        )
    return kept, left


def _unfit(run: Run, prepared: PreparedData) -> str | None:
    if run.facts.data != prepared.hash:
        return "it learned on other data"
    if run.facts.without:
        return f"an ablation, without {run.facts.without}"
    return None if set(run.folds()) - {ALL_FOLDS} else "no finished fold"


def build_ensemble(
    work: Path,
    name: str,
    members: list[Variant],
    tables: list[pl.DataFrame] | None = None,
    *,
    only: Sequence[str] = (),
    precision: str | None = None,
    class_priors: bool = True,
    draws: int = 1000,
    seed: int = 0,
) -> dict:
    """Learn blend weights on the members' common out-of-fold rows, judge them, and save the
    ensemble; return its report.

    tables: what members said, where it is not what their runs said; only: folds, if not all that
    they share. Raises UsageFault as `common` does.
    """
    return save_ensemble(
        work,
        name,
        members,
        shared_predictions([form.run for form in members], tables, only),
        {},
        precision=precision,
        class_priors=class_priors,
        draws=draws,
        seed=seed,
    )


def save_ensemble(
    work: Path,
    name: str,
    members: list[Variant],
    shared: SharedPredictions,
    told: dict,
    *,
    precision: str | None = None,
    class_priors: bool = True,
    draws: int,
    seed: int,
    command: str = "",
) -> dict:
    """Weigh and judge members, save them as an ensemble, and return its report: what `assess`
    returns, "class_priors", "rows", "folds", "data", and what is `told`.

    Members of negligible weight are dropped: the blend holds the kept ones alone. precision: to
    serve in; None: the kits'. class_priors: whether lifts for rare classes are tried; they are used when
    nested cross-validation finds them better.
    command: that makes the ensemble again; by default of these members, on these folds.
    """
    facts, names = members[0].run.facts, [form.name for form in members]
    contest = members[0].run.contest
    report = assess_ensemble(
        names,
        shared.members,
        shared.labels,
        shared.folds,
        facts.classes,
        contest,
        draws=draws,
        seed=seed,
    )
    report |= {
        "rows": len(shared.labels),
        "folds": sorted(set(shared.folds)),
        "data": facts.data,
        **told,
    }
    kept = [form for form in members if report["weights"][form.name] > 0]
    alone = shared._replace(
        members=shared.members[[members.index(form) for form in kept]]
    )  # so that the kept members alone give these lifts again
    report["class_priors"] = (
        _priors(alone, facts.classes, contest, draws, seed)
        if class_priors
        else {"used": False, "reason": "not requested"}
    )
    multipliers = ()
    if report["class_priors"]["used"]:
        multipliers = tuple(report["class_priors"]["multipliers"].values())
    folder = work / "ensembles" / check_name(name, "--name")
    settings = {
        "seed": seed,
        "draws": draws,
        "class_priors": class_priors,
        "folds": report["folds"],
        "precision": precision,
    }
    blend = ensemble_blend(work, kept, [report["weights"][form.name] for form in kept])
    blend = replace(
        blend,
        precision=precision or blend.precision,
        class_multipliers=multipliers,
        settings=settings,
    )
    names = [form.name for form in kept]
    if not command:
        options = [
            "--folds",
            ",".join(report["folds"]),
            *(["--precision", precision] if precision else []),
        ]
        command = ensemble_command(
            name, members, options, class_priors=class_priors, draws=draws, seed=seed
        )
    check_ensemble_folder(folder)
    with publish_folder(folder) as temporary:
        publish_json(temporary / ENSEMBLE_FILE, report)
        write_blend(temporary, blend)
        seal_folder(
            temporary,
            {"members": names, "command": command},
            [temporary / ENSEMBLE_FILE, temporary / BLEND_FILE, *contest.save(temporary)],
        )
    return report


def ensemble_command(
    name: str,
    members: Sequence[Variant],
    options: Sequence[str],
    *,
    class_priors: bool,
    draws: int,
    seed: int,
) -> str:
    """Return the command that makes an ensemble of the same members again; it lacks --work, which
    may move.
    """
    words = [
        "wbdc",
        "ensemble",
        "--name",
        name,
        *(word for form in members for word in ("--run", form.name)),
        *options,
    ]
    words += [
        "--seed",
        str(seed),
        "--draws",
        str(draws),
        *([] if class_priors else ["--no-class-priors"]),
        "--prepared",
        members[0].run.facts.data,
    ]
    return shlex.join(words)


def check_ensemble_folder(folder: Path) -> None:
    """Refuse to replace a folder that holds other things than an ensemble. Raises UsageFault."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UsageFault(f"{folder} is not a folder; remove it, or choose another --name")
    own = {ENSEMBLE_FILE, BLEND_FILE, SEAL_FILE, *_sealed_files(folder)}
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in own and not path.name.startswith(".")
    )
    if others:
        raise UsageFault(
            f"{folder} holds other files than an ensemble ({', '.join(others[:5])}); move them, or choose another --name"
        )


def _sealed_files(folder: Path) -> list[str]:
    """List what an ensemble's seal lists, such as the file of its contest; nothing when it has no
    seal that can be read.
    """
    try:
        return list((sealed_facts(folder) or {"files": {}})["files"])
    except IntegrityBroken:
        return []


def _priors(
    shared: SharedPredictions, classes: list[str], contest: Competition, draws: int, seed: int
) -> dict:
    """Judge lifts on the ensemble's own out-of-fold answers; say why where they cannot be judged."""
    place = {label: i for i, label in enumerate(classes)}
    truth, folds = np.array([place[label] for label in shared.labels]), np.array(shared.folds)

    def without(fold: str) -> np.ndarray:
        """Blend the other folds' rows as if this one were not there: its labels teach neither
        weights nor lifts.
        """
        others, blended = folds != fold, np.zeros(shared.members.shape[1:], np.float32)
        blended[others] = nested_blend(shared.members[:, others], truth[others], folds[others])
        return blended

    try:
        return assess_multipliers(
            nested_blend(shared.members, truth, folds),
            shared.labels,
            shared.folds,
            classes,
            contest,
            without=without,
            draws=draws,
            seed=seed,
        )
    except UsageFault as error:  # fewer than three folds, or a score that is no F1
        return {"used": False, "reason": str(error)}


def ensemble_blend(work: Path, forms: list[Variant], weights: list[float]) -> Blend:
    """Return the blend of members: every fold of one is a model with an equal part of its weight."""
    runs = [form.run for form in forms]
    members = tuple(
        BlendMember(
            str(form.run.fold(fold).relative_to(work)),
            weight / len(form.folds),
            form.serve,
            run=form.run.name,
            fold=fold,
        )
        for form, weight in zip(forms, weights)
        for fold in form.folds
    )
    precisions = {_read_model(work / m.folder)["serve"]["precision"] for m in members}
    if len(precisions) > 1:
        raise UsageFault(
            f"the runs serve in different precisions ({', '.join(sorted(precisions))}); give one with --precision"
        )
    facts = runs[0].facts
    return Blend(facts.competition, precisions.pop(), members, data=facts.data)


def _read_model(folder: Path) -> dict:
    verify_seal(folder, (MODEL_FILE,))
    return read_model(folder)


def run_blend(work: Path, run: Run) -> Blend:
    """Return the blend of one run's finished folds."""
    if not run.folds():
        raise UsageFault(f"run {run.name} has no finished fold")
    return replace(ensemble_blend(work, [full_variant(run)], [1.0]), run=run.name)


def open_ensemble(work: Path, name: str) -> tuple[Path, Blend]:
    """Open a saved ensemble: (folder that member folders are relative to, blend). Raises
    UsageFault.
    """
    folder = work / "ensembles" / check_name(name, "--ensemble")
    if not (folder / SEAL_FILE).is_file():
        made = sorted(p.parent.name for p in (work / "ensembles").glob(f"[!.]*/{SEAL_FILE}"))
        raise UsageFault(
            f"no ensemble called {name!r}{suggest_name(name, made)}; make one with `wbdc ensemble`"
        )
    facts = verify_seal(folder, (ENSEMBLE_FILE, BLEND_FILE))
    blend = read_blend(folder)
    for member in blend.members:
        if not (work / member.folder / SEAL_FILE).is_file():
            raise IntegrityBroken(
                f"{work / member.folder} is missing or not finished; train this fold again, or run {repair_command(folder, facts)} again"
            )
    return work, blend


def open_contest(work: Path, name: str) -> Competition:
    """Open the competition of a saved ensemble, from the ensemble's copy of its file. Raises
    IntegrityBroken.
    """
    folder = work / "ensembles" / name
    contest_name = read_blend(folder).competition
    if contest_name.endswith(".py"):
        verify_seal(folder, (Path(contest_name).name,))
    return open_competition(contest_name, folder)


def open_report(work: Path, name: str) -> dict:
    """Read what an ensemble scored."""
    folder = work / "ensembles" / name
    verify_seal(folder, (ENSEMBLE_FILE,))
    return read_json(folder / ENSEMBLE_FILE)
