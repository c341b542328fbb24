"""The held-out predictions of an ensemble: of its members, and its nested blend."""

from pathlib import Path

import numpy as np
import polars as pl

from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.ensemble.band_choice import report_fit
from wbdc.ensemble.nested_blend import nested_blend
from wbdc.ensemble.out_of_fold import VARIANTS_FOLDER
from wbdc.ensemble.outside_members import read_outside_members
from wbdc.ensemble.shared_rows import SharedPredictions, shared_predictions
from wbdc.ensemble.variants import Variant, parse_variant
from wbdc.prepare.dataset import PreparedData
from wbdc.report.collect.held_out import HeldOut
from wbdc.serve.blend_file import Blend
from wbdc.train.runs import read_predictions

MAX_SCORE_DIFFERENCE = 1e-3  # from the saved score; other machines round weights differently


def ensemble_held_out(
    work: Path, name: str, report: dict, blend: Blend, prepared: PreparedData
) -> HeldOut:
    """Return the predictions of an ensemble, each fold blended with weights of the other folds.

    report: of the saved ensemble. Class multipliers are not applied, as in the report's score.
    Raises UsageFault when predictions of a member are gone, IntegrityFault when they have changed
    since the ensemble was built.
    """
    outside_files = report.get("outside", {})
    members = [parse_variant(work, one) for one in report["members"] if one not in outside_files]
    if not members:
        raise UsageFault(f"ensemble {name} has no member that wbdc trained, so there is no report")
    tables = [_member_table(one, blend.settings.get("precision")) for one in members]
    ids = tables[0].filter(tables[0]["fold"].is_in(report["folds"])).sort("id")["id"].to_list()

    facts = members[0].run.facts
    split = prepared.facts.labeled_split
    all_ids = prepared.read_split(split, ["id"])["id"].to_list()
    options = [f"{one}={entry['file']}" for one, entry in outside_files.items()]
    outside = read_outside_members(options, all_ids, facts.classes, split) if options else []
    shared = shared_predictions(
        [member.run for member in members], tables, report["folds"], outside
    )
    names = [*(member.name for member in members), *outside_files]
    held_out = HeldOut(
        contest=members[0].run.contest,
        ids=ids,
        truth=shared.truth,
        folds=shared.folds,
        classes=facts.classes,
        probabilities=_blend(report, names, shared),
        members=dict(zip(names, shared.members, strict=True)),
    )
    _check_score(name, held_out, report)
    return held_out


def _member_table(member: Variant, precision: str | None) -> pl.DataFrame:
    """Return the out-of-fold predictions of a member as it is served: those that `wbdc ensemble`
    stored, or those of its run.
    """
    words = [f"{key}={value}" for key, value in member.serve.items()]
    stored = [[*words, f"precision={precision}"]] if precision else []
    for some in [*stored, words]:
        folder = member.run.folder / VARIANTS_FOLDER / "-".join(some)
        if some and folder.is_dir():
            return pl.concat(map(read_predictions, sorted(folder.glob("fold-*.parquet"))))
    if words:
        raise UsageFault(
            f"the predictions of {member.name!r} are gone; build the ensemble again with `wbdc "
            "ensemble`"
        )
    return member.run.oof()


def _blend(report: dict, names: list[str], shared: SharedPredictions) -> np.ndarray:
    """Blend the members as the report's score was computed: (n, C)."""
    if len(names) == 1:
        return shared.members[0]
    if report["bands"]["used"]:
        dropped = {entry["name"] for entry in report["dropped"]}
        rows = [row for row, name in enumerate(names) if name not in dropped]
        remaining = shared._replace(members=shared.members[rows])
        return nested_blend(*remaining, report_fit(report))
    return nested_blend(*shared, report_fit(report))


def _check_score(name: str, held_out: HeldOut, report: dict) -> None:
    saved, score = report["ensemble"]["score"]["mean"], held_out.score()["mean"]
    if not abs(saved - score) <= MAX_SCORE_DIFFERENCE:
        raise IntegrityFault(
            f"the members of ensemble {name} now score {score:.4f} together, and {saved:.4f} when "
            "it was built: their predictions have changed; build it again with `wbdc ensemble "
            f"--name {name}`"
        )
