"""Members of an ensemble from outside wbdc: files with the probabilities of any model."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wbdc.core.errors import DataFault, UsageFault, suggest_name
from wbdc.core.files import file_sha256
from wbdc.core.folders import check_name
from wbdc.ensemble.support_report import ENSEMBLE_ROW
from wbdc.serve.apply_multipliers import apply_multipliers
from wbdc.serve.blend import OutsideScores, blend_probabilities
from wbdc.serve.blend_file import Blend
from wbdc.train.probability_file import ID_COLUMN, read_probability_table

if TYPE_CHECKING:
    from wbdc.serve.engine import Predictions

WITH_OPTION = "--with"
SUM_TOLERANCE = 1e-3  # of a row's sum from 1; rounding to four digits stays below
MAX_NAMED_IDS = 3  # in an error


class OutsideMember(NamedTuple):
    """A member that wbdc did not train and cannot run.

    sha256: of the file; ids: n strings; classes: C names; probabilities: (n, C) float32, each row
    adds up to 1.
    """

    name: str
    file: Path
    sha256: str
    ids: list[str]
    classes: list[str]
    probabilities: np.ndarray

    def select(self, ids: Sequence[str]) -> np.ndarray:
        """Return the probabilities of some videos, (k, C), in the order of `ids`."""
        row_of = {name: row for row, name in enumerate(self.ids)}
        return self.probabilities[[row_of[name] for name in ids]]


def read_outside_members(
    options: Sequence[str], ids: Sequence[str], classes: Sequence[str], split: str
) -> list[OutsideMember]:
    """Read the files that `--with` names, each "FILE" or "NAME=FILE"; FILE has its stem as name.

    ids: of all videos of `split`, which each file must name once. Raises UsageFault for two
    members of one name, a file that does not exist, of another format or with other classes, and
    DataFault for ids or probabilities that are not valid.
    """
    members = [_read_member(option, ids, classes, split) for option in options]
    names = [member.name for member in members]
    if ENSEMBLE_ROW in names:
        raise UsageFault(
            f"{WITH_OPTION}: {ENSEMBLE_ROW!r} is the name of the blend in a report; give the member"
            f" another one: {WITH_OPTION} NAME=FILE"
        )
    for name in names:
        if names.count(name) > 1:
            raise UsageFault(
                f"{WITH_OPTION} names two members {name!r}; give them different names:"
                f" {WITH_OPTION} {name}-2=FILE"
            )
    return members


def check_outside_names(blend: Blend, names: Sequence[str], split: str) -> None:
    """Raise UsageFault unless files are given for exactly the outside members of a blend."""
    expected = [member.name for member in blend.outside]
    for name in names:
        if name not in expected:
            raise UsageFault(
                f"{WITH_OPTION}: the ensemble has no member from outside wbdc called {name!r}"
                f"{suggest_name(name, expected)}"
            )
    if missing := [name for name in expected if name not in names]:
        raise UsageFault(
            f"{missing[0]} is a member from outside wbdc, which wbdc cannot run; give its"
            f" probabilities for the split {split} with {WITH_OPTION} {missing[0]}=FILE"
        )


def refuse_outside_members(blend: Blend, ensemble: str) -> None:
    """Raise UsageFault if a blend has members that cannot run at the judge's machine."""
    if not blend.outside:
        return
    names = ", ".join(member.name for member in blend.outside)
    runs = dict.fromkeys(member.run for member in blend.members if member.run)
    words = ["wbdc", "ensemble", "--name", f"{ensemble}-runs"]
    words += [word for run in runs for word in ("--run", run)]
    raise UsageFault(
        f"ensemble {ensemble} has members from outside wbdc ({names}), which cannot run on the"
        f" judge's machine; build one without them with `{shlex.join(words)}`, and submit it with"
        f" --ensemble {ensemble}-runs"
    )


def outside_scores(
    blend: Blend, members: Sequence[OutsideMember], ids: Sequence[str]
) -> OutsideScores:
    """Return the probabilities of a blend's outside members for some videos, with their weights."""
    tables = {member.name: member for member in members}
    return OutsideScores(
        [tables[member.name].select(ids) for member in blend.outside],
        [member.class_weights or member.weight for member in blend.outside],
    )


def predict_without_models(
    blend: Blend, members: Sequence[OutsideMember], ids: Sequence[str]
) -> "Predictions":
    """Predict with an ensemble whose blend dropped every run, from the files of its members.

    Returns predictions with empty stages and findings.
    """
    from wbdc.serve.engine import Predictions  # imports torch; reading the members needs none

    scores = outside_scores(blend, members, ids)
    probabilities = blend_probabilities(*scores, blend.sharpness)
    factors = blend.factors(probabilities.shape[1])
    if factors is not None:
        probabilities = apply_multipliers(probabilities, factors)
    return Predictions(probabilities, members[0].classes, {}, {}, [], 0)


def member_name(option: str) -> str:
    """Return the name of a member: NAME of "NAME=FILE", or the stem of "FILE"."""
    name, separator, _ = option.partition("=")
    return check_name(name if separator else Path(option).stem, WITH_OPTION)


def _read_member(
    option: str, ids: Sequence[str], classes: Sequence[str], split: str
) -> OutsideMember:
    path = Path(option.partition("=")[2] or option)
    table = read_probability_table(path, classes)
    file_ids = table[ID_COLUMN].to_list()
    _check_ids(path, file_ids, ids, split)
    probabilities = table.select(list(classes)).to_numpy().astype(np.float32)
    _check_rows(path, file_ids, probabilities)
    name, sha256 = member_name(option), file_sha256(path)
    return OutsideMember(name, path, sha256, file_ids, list(classes), probabilities)


def _check_ids(path: Path, file_ids: Sequence[str], ids: Sequence[str], split: str) -> None:
    """Raise DataFault unless a file names every video of a split, and no other."""
    in_file, in_split = set(file_ids), set(ids)
    if unknown := [name for name in file_ids if name not in in_split]:
        raise DataFault(
            f"{path} has {len(unknown):,} ids that are not in the split {split}:"
            f" {_list_ids(unknown)}; check that the file is of this split, and remove these rows"
        )
    if missing := [name for name in ids if name not in in_file]:
        raise DataFault(
            f"{path} lacks {len(missing):,} of the {len(ids):,} videos of the split {split}:"
            f" {_list_ids(missing)}; predict them too"
        )


def _check_rows(path: Path, ids: Sequence[str], probabilities: np.ndarray) -> None:
    """Raise DataFault for rows that are no distributions."""
    sums = probabilities.sum(1, dtype=np.float64)
    valid = (
        np.isfinite(probabilities).all(1)
        & (probabilities >= 0).all(1)
        & (np.abs(sums - 1) <= SUM_TOLERANCE)
    )
    if not valid.all():
        rows = np.flatnonzero(~valid)
        raise DataFault(
            f"{path}: {len(rows):,} rows are no probabilities, first that of {ids[rows[0]]!r}, with"
            f" the sum {sums[rows[0]]:.4g}; each row needs finite numbers of 0 or more that add up"
            " to 1"
        )


def _list_ids(ids: Sequence[str]) -> str:
    more = ", …" if len(ids) > MAX_NAMED_IDS else ""
    return ", ".join(ids[:MAX_NAMED_IDS]) + more
