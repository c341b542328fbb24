"""Ensembles on disk: built from out-of-fold predictions, saved as a blend, opened again."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl

from wbdc.competitions import Competition, is_contest_file, open_competition
from wbdc.core.errors import IntegrityFault, UsageFault, suggest_name
from wbdc.core.files import SEAL_FILE, publish_json, read_json, seal_folder, sealed_facts
from wbdc.core.folders import check_name, publish_folder
from wbdc.core.integrity import repair_command, verify_seal
from wbdc.ensemble.band_weights import nested_band_blend
from wbdc.ensemble.blend_weights import nested_blend
from wbdc.ensemble.evaluation import evaluate_bands, evaluate_ensemble, evaluate_geometric
from wbdc.ensemble.geometric_weights import nested_geometric_blend
from wbdc.ensemble.outside_members import WITH_OPTION, OutsideMember
from wbdc.ensemble.priors.class_multipliers import evaluate_multipliers
from wbdc.ensemble.shared_rows import SharedPredictions, shared_predictions
from wbdc.ensemble.variants import Variant, full_variant
from wbdc.serve.blend_file import (
    BLEND_FILE,
    Blend,
    BlendMember,
    OutsideEntry,
    read_blend,
    write_blend,
)
from wbdc.serve.member_files import MODEL_FILE
from wbdc.serve.members import find_member_class, read_model
from wbdc.train.runs import Run

ENSEMBLE_FILE = "ensemble.json"


def build_ensemble(
    work: Path,
    name: str,
    members: list[Variant],
    tables: list[pl.DataFrame] | None = None,
    *,
    only_folds: Sequence[str] = (),
    outside: Sequence[OutsideMember] = (),
    precision: str | None = None,
    mean: str = "auto",
    class_priors: bool = True,
    bands: Sequence[int] = (),
    draws: int = 1000,
    seed: int = 0,
) -> dict:
    """Learn blend weights on the members' common out-of-fold rows, and save the ensemble.

    tables: predictions of each member, where they are not its run's own; only_folds: use these
    alone; outside: members from outside wbdc. Returns the report of `save_ensemble`. Raises
    UsageFault as `shared_predictions` does.
    """
    shared = shared_predictions([member.run for member in members], tables, only_folds, outside)
    return save_ensemble(
        work,
        name,
        members,
        shared,
        outside=outside,
        precision=precision,
        mean=mean,
        class_priors=class_priors,
        bands=bands,
        draws=draws,
        seed=seed,
    )


def save_ensemble(
    work: Path,
    name: str,
    members: list[Variant],
    shared: SharedPredictions,
    *,
    outside: Sequence[OutsideMember] = (),
    extra_facts: dict | None = None,
    precision: str | None = None,
    mean: str = "auto",
    class_priors: bool = True,
    bands: Sequence[int] = (),
    draws: int,
    seed: int,
    command: str = "",
) -> dict:
    """Weigh and evaluate members, save them as an ensemble, and return its report.

    Members of negligible weight are dropped: the blend holds the remaining ones alone.

    outside: members from outside wbdc, in the rows of `shared` after those of `members`;
    extra_facts: added to the report; precision: to serve in, by default that of the kits; mean: as
    in `evaluate_geometric`;
    class_priors: whether class multipliers are tried (they are used when nested cross-validation
    finds them better); bands: bounds of class support between which weights may differ, () for
    none: they do where nested cross-validation finds them better; command: that builds the ensemble
    again, by default of these members on these folds.
    Returns what `evaluate_geometric` and `evaluate_bands` return, and "class_priors", "rows",
    "folds", "data", and "outside": {name: {"file", "sha256"}}.
    """
    names = [member.name for member in (*members, *outside)]
    report, class_weights = _evaluate_members(
        names, members[0].run, shared, mean, class_priors, bands, draws, seed
    )
    report |= extra_facts or {}
    report["outside"] = {m.name: {"file": str(m.file), "sha256": m.sha256} for m in outside}
    report["optimistic"] = [m.name for m in members if _has_selected_weights(m)]
    remaining = [member for member in members if report["weights"][member.name] > 0]
    weights = [report["weights"][member.name] for member in remaining]
    blend = members_blend(
        work, remaining or members[:1], weights or [0.0], precision, class_weights
    )
    if not remaining:  # the members from outside are better alone
        blend = replace(blend, members=())
    used = report["class_priors"]["used"]
    multipliers = report["class_priors"]["multipliers"].values() if used else ()
    blend = replace(
        blend,
        outside=_outside_entries(outside, report["weights"], class_weights),
        sharpness=report["geometric"]["sharpness"] if report["geometric"]["used"] else 0.0,
        class_multipliers=tuple(multipliers),
        settings={
            "seed": seed,
            "draws": draws,
            "class_priors": class_priors,
            "folds": report["folds"],
            "precision": precision,
            "mean": "geometric" if report["geometric"]["used"] else "arithmetic",
            "bands": list(bands) if report["bands"]["used"] else [],
        },
    )
    if not command:
        options = ["--folds", ",".join(report["folds"])]
        options += ["--precision", precision] if precision else []
        for member in outside:
            options += [WITH_OPTION, f"{member.name}={member.file.absolute()}"]
        command = ensemble_command(
            name,
            members,
            options,
            mean=mean,
            class_priors=class_priors,
            bands=bands,
            draws=draws,
            seed=seed,
        )

    folder, contest = work / "ensembles" / check_name(name, "--name"), members[0].run.contest
    seal_facts = {
        "members": [member.name for member in remaining],
        "outside": {member.name: member.sha256 for member in blend.outside},
        "command": command,
    }
    _publish(folder, report, blend, contest, seal_facts)
    return report


def ensemble_command(
    name: str,
    members: Sequence[Variant],
    options: Sequence[str],
    *,
    mean: str,
    class_priors: bool,
    bands: Sequence[int],
    draws: int,
    seed: int,
) -> str:
    """Return the command that builds an ensemble of the same members, without --work."""
    words = ["wbdc", "ensemble", "--name", name]
    for member in members:
        words += ["--run", member.name]
    words += [*options, "--seed", str(seed), "--draws", str(draws)]
    words += ["--mean", mean]
    words += [] if class_priors else ["--no-class-priors"]
    words += ["--bands", format_bands(bands)]
    words += ["--prepared", members[0].run.facts.data]
    return shlex.join(words)


def format_bands(bounds: Sequence[int]) -> str:
    """Return the value of --bands: "10,50", or "none"."""
    return ",".join(map(str, bounds)) or "none"


def check_ensemble_folder(folder: Path) -> None:
    """Refuse to replace a folder that holds other files than an ensemble. Raises UsageFault."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UsageFault(f"{folder} is not a folder; remove it, or choose another --name")
    ensemble_files = {ENSEMBLE_FILE, BLEND_FILE, SEAL_FILE, *_sealed_files(folder)}
    other_files = sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in ensemble_files and not path.name.startswith(".")
    )
    if other_files:
        raise UsageFault(
            f"{folder} holds other files than an ensemble ({', '.join(other_files[:5])}); move"
            " them, or choose another --name"
        )


def members_blend(
    work: Path,
    members: list[Variant],
    weights: list[float],
    precision: str | None = None,
    class_weights: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Blend:
    """Return the blend of members: each fold is a model with an equal part of its member's weight.

    precision: to serve in, by default that of the members' kits; class_weights: {name of a member:
    its weight for each class, (C,)}, where the blend weighs by class. Raises UsageFault when these
    differ and none is given.
    """
    models = tuple(
        BlendMember(
            str(member.run.fold(fold).relative_to(work)),
            weight / len(member.folds),
            member.serve,
            run=member.run.name,
            fold=fold,
            class_weights=tuple((shares / len(member.folds)).tolist()),
        )
        for member, weight in zip(members, weights, strict=True)
        for shares in [class_weights.get(member.name, np.zeros(0))]
        for fold in member.folds
    )
    precisions = set().union(*(serving_precisions(member) for member in members)) or {"auto"}
    if len(precisions) > 1 and not precision:
        raise UsageFault(
            f"the runs serve in different precisions ({', '.join(sorted(precisions))}); choose one"
            " with --precision"
        )
    facts = members[0].run.facts
    return Blend(facts.competition, precision or precisions.pop(), models, data=facts.data)


def run_blend(work: Path, run: Run) -> Blend:
    """Return the blend of one run's finished folds."""
    if not run.folds():
        raise UsageFault(f"run {run.name} has no finished fold; train one with --fold 0")
    return replace(members_blend(work, [full_variant(run)], [1.0]), run=run.name)


def open_ensemble(work: Path, name: str) -> tuple[Path, Blend]:
    """Open a saved ensemble: (folder that member folders are relative to, blend).

    Raises UsageFault when there is none, IntegrityFault when it or a member is damaged.
    """
    folder = work / "ensembles" / check_name(name, "--ensemble")
    if not (folder / SEAL_FILE).is_file():
        names = sorted(p.parent.name for p in (work / "ensembles").glob(f"[!.]*/{SEAL_FILE}"))
        raise UsageFault(
            f"no ensemble called {name!r}{suggest_name(name, names)}; make one with `wbdc ensemble`"
        )
    facts = verify_seal(folder, (ENSEMBLE_FILE, BLEND_FILE))
    blend = read_blend(folder)
    for member in blend.members:
        if not (work / member.folder / SEAL_FILE).is_file():
            raise IntegrityFault(
                f"{work / member.folder} is missing or not finished; train this fold again, or run"
                f" {repair_command(folder, facts)} again"
            )
    return work, blend


def open_contest(work: Path, name: str) -> Competition:
    """Open the competition of a saved ensemble, from the ensemble's copy of its file.

    Raises IntegrityFault.
    """
    folder = work / "ensembles" / name
    contest_name = read_blend(folder).competition
    if is_contest_file(contest_name):
        verify_seal(folder, (Path(contest_name).name,))
    return open_competition(contest_name, folder)


def open_report(work: Path, name: str) -> dict:
    """Read the report of a saved ensemble. Raises IntegrityFault."""
    folder = work / "ensembles" / name
    verify_seal(folder, (ENSEMBLE_FILE,))
    return read_json(folder / ENSEMBLE_FILE)


def _has_selected_weights(member: Variant) -> bool:
    """Return whether a fold of a member selected its weights on the videos that it held out."""
    return any("selected_on" in facts for facts in member.run.folds().values())


def _outside_entries(
    outside: Sequence[OutsideMember],
    weights: dict[str, float],
    class_weights: Mapping[str, np.ndarray],
) -> tuple[OutsideEntry, ...]:
    """Return the entries in blend.json of the outside members that were not dropped."""
    return tuple(
        OutsideEntry(
            member.name,
            weights[member.name],
            str(member.file.absolute()),
            member.sha256,
            tuple(class_weights.get(member.name, np.zeros(0)).tolist()),
        )
        for member in outside
        if weights[member.name] > 0
    )


def _evaluate_members(
    names: list[str],
    run: Run,
    shared: SharedPredictions,
    mean: str,
    class_priors: bool,
    bands: Sequence[int],
    draws: int,
    seed: int,
) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the report of an ensemble, with the class multipliers of its remaining members, and
    {name: weight for each class (C,)} of all members, {} where the blend does not weigh by class.

    run: one of the members', for the classes and the contest.
    """
    facts, contest = run.facts, run.contest
    inputs = (names, *shared, facts.classes, contest)
    report = evaluate_ensemble(*inputs, draws=draws, seed=seed)
    report, sharpness = evaluate_geometric(report, *inputs, mean=mean, draws=draws, seed=seed)
    report, weights = evaluate_bands(report, *inputs, bounds=bands, draws=draws, seed=seed)
    report |= {
        "rows": len(shared.truth),
        "folds": sorted(set(shared.folds.tolist())),
        "data": facts.data,
        "class_priors": {"used": False, "reason": "not requested"},
    }
    if class_priors:
        # so that the remaining members alone give the same multipliers
        positions = [i for i, name in enumerate(names) if report["weights"][name] > 0]
        remaining = shared._replace(members=shared.members[positions])
        blend = nested_geometric_blend if sharpness else nested_blend
        if weights is not None:
            blend = partial(nested_band_blend, bounds=bands)
        report["class_priors"] = _class_priors(
            remaining, blend, facts.classes, contest, draws, seed
        )
    return report, {} if weights is None else dict(zip(names, weights, strict=True))


def _publish(
    folder: Path, report: dict, blend: Blend, contest: Competition, seal_facts: dict
) -> None:
    check_ensemble_folder(folder)
    with publish_folder(folder) as temporary:
        publish_json(temporary / ENSEMBLE_FILE, report)
        write_blend(temporary, blend)
        contest_files = contest.save(temporary)
        seal_folder(
            temporary,
            seal_facts,
            [temporary / ENSEMBLE_FILE, temporary / BLEND_FILE, *contest_files],
        )


def _sealed_files(folder: Path) -> list[str]:
    """List the files in an ensemble's seal, for example that of its contest.

    Empty when the folder has no readable seal.
    """
    try:
        return list((sealed_facts(folder) or {"files": {}})["files"])
    except IntegrityFault:
        return []


def _class_priors(
    shared: SharedPredictions,
    blend: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    classes: list[str],
    contest: Competition,
    draws: int,
    seed: int,
) -> dict:
    """Evaluate class multipliers on the ensemble's nested predictions.

    blend: of members, truth and folds, returns nested predictions.
    Returns {"used": False, "reason"} where they cannot be evaluated.
    """
    members, truth, folds = shared

    def blend_without_fold(fold: str) -> np.ndarray:
        """Blend the other folds without this one: its labels change neither weights nor p."""
        other_rows = folds != fold
        blended = np.zeros(members.shape[1:], np.float32)
        blended[other_rows] = blend(members[:, other_rows], truth[other_rows], folds[other_rows])
        return blended

    try:
        return evaluate_multipliers(
            blend(members, truth, folds),
            truth,
            folds,
            classes,
            contest,
            blend_without_fold=blend_without_fold,
            draws=draws,
            seed=seed,
        )
    except UsageFault as error:  # fewer than three folds, or a score that is not a mean of F1
        return {"used": False, "reason": str(error)}


def serving_precisions(member: Variant) -> set[str]:
    """Return the precisions in which the folds of a member were evaluated; none for a member that
    is no network, whose predictions are the same in all.

    There may be several: `serve.precision` is no part of a run's identity.
    """
    folders = [member.run.fold(fold) for fold in member.folds]
    for folder in folders:
        verify_seal(folder, (MODEL_FILE,))
    models = [read_model(folder) for folder in folders]
    return {
        model["serve"]["precision"]
        for model, folder in zip(models, folders, strict=True)
        if find_member_class(model, folder).is_network
    }
