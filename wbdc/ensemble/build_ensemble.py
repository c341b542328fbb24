"""Ensembles, built from out-of-fold predictions: weighed, evaluated, and saved as a blend."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from wbdc.competitions import Competition
from wbdc.core.errors import UsageFault
from wbdc.core.folders import check_name
from wbdc.ensemble.band_choice import evaluate_bands, report_fit
from wbdc.ensemble.blas_threads import one_blas_thread
from wbdc.ensemble.ensemble_settings import DEFAULT_SETTINGS, EnsembleSettings
from wbdc.ensemble.evaluation import evaluate_ensemble
from wbdc.ensemble.geometric_choice import evaluate_geometric
from wbdc.ensemble.nested_blend import BlendFit, nested_blend
from wbdc.ensemble.outside_members import WITH_OPTION, OutsideMember
from wbdc.ensemble.priors.class_multipliers import evaluate_multipliers
from wbdc.ensemble.saved_ensembles import members_blend, publish_ensemble
from wbdc.ensemble.shared_rows import SharedPredictions, shared_predictions
from wbdc.ensemble.variants import Variant
from wbdc.serve.blend_file import OutsideEntry
from wbdc.train.runs import Run


def build_ensemble(
    work: Path,
    name: str,
    members: list[Variant],
    tables: list[pl.DataFrame] | None = None,
    *,
    only_folds: Sequence[str] = (),
    outside: Sequence[OutsideMember] = (),
    precision: str | None = None,
    openvino: bool = False,
    settings: EnsembleSettings = DEFAULT_SETTINGS,
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
        openvino=openvino,
        settings=settings,
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
    openvino: bool = False,
    settings: EnsembleSettings,
    command: str = "",
) -> dict:
    """Weigh and evaluate members, save them as an ensemble, and return its report.

    Members of negligible weight are dropped: the blend holds the remaining ones alone.

    outside: members from outside wbdc, in the rows of `shared` after those of `members`;
    extra_facts: added to the report; precision: to serve in, by default that of the kits; openvino:
    serve with OpenVINO, which predicted `shared`; command: that builds the ensemble again, by
    default of these members on these folds.
    Returns what `evaluate_geometric` and `evaluate_bands` return, and "class_priors", "rows",
    "folds", "data", and "outside": {name: {"file", "sha256"}}.
    """
    names = [member.name for member in (*members, *outside)]
    report, class_weights = _evaluate_members(names, members[0].run, shared, settings)
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
        openvino=openvino,
        settings={
            "seed": settings.seed,
            "draws": settings.draws,
            "class_priors": settings.class_priors,
            "folds": report["folds"],
            "precision": precision,
            "openvino": openvino,
            "mean": "geometric" if report["geometric"]["used"] else "arithmetic",
            "bands": list(settings.bands) if report["bands"]["used"] else [],
        },
    )
    if not command:
        options = ["--folds", ",".join(report["folds"])]
        options += ["--precision", precision] if precision else []
        options += ["--openvino"] if openvino else []
        for member in outside:
            options += [WITH_OPTION, f"{member.name}={member.file.absolute()}"]
        command = ensemble_command(name, members, options, settings)

    folder, contest = work / "ensembles" / check_name(name, "--name"), members[0].run.contest
    seal_facts = {
        "members": [member.name for member in remaining],
        "outside": {member.name: member.sha256 for member in blend.outside},
        "command": command,
    }
    publish_ensemble(folder, report, blend, contest, seal_facts)
    return report


def ensemble_command(
    name: str, members: Sequence[Variant], options: Sequence[str], settings: EnsembleSettings
) -> str:
    """Return the command that builds an ensemble of the same members, without --work."""
    words = ["wbdc", "ensemble", "--name", name]
    for member in members:
        words += ["--run", member.name]
    words += [*options, *settings.command_words(), "--prepared", members[0].run.facts.data]
    return shlex.join(words)


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


@one_blas_thread()
def _evaluate_members(
    names: list[str],
    run: Run,
    shared: SharedPredictions,
    settings: EnsembleSettings,
) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the report of an ensemble, with the class multipliers of its remaining members, and
    {name: weight for each class (C,)} of all members, {} where the blend does not weigh by class.

    run: one of the members', for the classes and the contest.
    """
    facts, contest = run.facts, run.contest
    inputs = (names, *shared, facts.classes, contest)
    bootstrap = {"draws": settings.draws, "seed": settings.seed}
    report = evaluate_ensemble(*inputs, **bootstrap)
    report, _ = evaluate_geometric(report, *inputs, mean=settings.mean, **bootstrap)
    report, weights = evaluate_bands(report, *inputs, bounds=settings.bands, **bootstrap)
    report |= {
        "rows": len(shared.truth),
        "folds": sorted(set(shared.folds.tolist())),
        "data": facts.data,
        "class_priors": {"used": False, "reason": "not requested"},
    }
    if settings.class_priors:
        # so that the remaining members alone give the same multipliers
        positions = [i for i, name in enumerate(names) if report["weights"][name] > 0]
        remaining = shared._replace(members=shared.members[positions])
        report["class_priors"] = _class_priors(
            remaining, report_fit(report), facts.classes, contest, settings
        )
    return report, {} if weights is None else dict(zip(names, weights, strict=True))


def _class_priors(
    shared: SharedPredictions,
    fit: BlendFit,
    classes: list[str],
    contest: Competition,
    settings: EnsembleSettings,
) -> dict:
    """Evaluate class multipliers on the ensemble's nested predictions; return {"used": False,
    "reason"} where they cannot be evaluated.
    """
    members, truth, folds = shared

    def blend_without_fold(fold: str) -> np.ndarray:
        """Blend the other folds without this one: its labels change neither weights nor p."""
        other_rows = folds != fold
        blended = np.zeros(members.shape[1:], np.float32)
        blended[other_rows] = nested_blend(
            members[:, other_rows], truth[other_rows], folds[other_rows], fit
        )
        return blended

    try:
        return evaluate_multipliers(
            nested_blend(members, truth, folds, fit),
            truth,
            folds,
            classes,
            contest,
            blend_without_fold=blend_without_fold,
            draws=settings.draws,
            seed=settings.seed,
        )
    except UsageFault as error:  # fewer than three folds, or a score that is not a mean of F1
        return {"used": False, "reason": str(error)}
