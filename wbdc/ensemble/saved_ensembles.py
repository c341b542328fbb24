"""Ensembles on disk: the blend of their members, published, checked and opened again."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from wbdc.competitions import Competition, is_contest_file, open_competition
from wbdc.core.errors import IntegrityFault, UsageFault, suggest_name
from wbdc.core.files import SEAL_FILE, publish_json, read_json, seal_folder, sealed_facts
from wbdc.core.folders import check_name, publish_folder
from wbdc.core.integrity import repair_command, verify_seal
from wbdc.core.plug_source import plug_attribute
from wbdc.ensemble.variants import Variant, full_variant
from wbdc.serve.blend_file import (
    BLEND_FILE,
    Blend,
    BlendMember,
    read_blend,
    write_blend,
)
from wbdc.serve.member_files import (
    MEMBERS_PACKAGE,
    MODEL_FILE,
    member_kind,
    read_member_facts,
)
from wbdc.train.runs import Run

ENSEMBLE_FILE = "ensemble.json"


def publish_ensemble(
    folder: Path, report: dict, blend: Blend, contest: Competition, seal_facts: dict
) -> None:
    """Publish the report and the blend of an ensemble with its contest, sealed.

    Raises UsageFault when the folder holds other files.
    """
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


def _sealed_files(folder: Path) -> list[str]:
    """List the files in an ensemble's seal, for example that of its contest.

    Empty when the folder has no readable seal.
    """
    try:
        return list((sealed_facts(folder) or {"files": {}})["files"])
    except IntegrityFault:
        return []


def serving_precisions(member: Variant) -> set[str]:
    """Return the precisions in which the folds of a member were evaluated; none for a member that
    is no network, whose predictions are the same in all.

    There may be several: `serve.precision` is no part of a run's identity.
    """
    folders = [member.run.fold(fold) for fold in member.folds]
    for folder in folders:
        verify_seal(folder, (MODEL_FILE,))
    return {
        read_member_facts(folder)["serve"]["precision"] for folder in folders if _is_network(folder)
    }


def has_networks(home: Path, blend: Blend) -> bool:
    """Return whether a member of a blend is a network. home: the folder that the folders of the
    members are relative to. Raises IntegrityFault.
    """
    return any(_is_network(home / member.folder) for member in blend.members)


def _is_network(folder: Path) -> bool:
    kind = member_kind(read_member_facts(folder), folder)
    return plug_attribute(MEMBERS_PACKAGE, kind, "is_network")
