"""Which runs ensembles, submissions and other runs need, and the removal of runs."""

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from wbdc.core.errors import UsageFault
from wbdc.core.files import SEAL_FILE, lock_folder
from wbdc.serve.blend_file import read_blend
from wbdc.submit.check.manifest import MANIFEST_FILE, read_manifest
from wbdc.submit.reproduced_runs import Lineage, blend_folds
from wbdc.train.runs import RUN_FACTS_FILE, Run


def runs_in_use(work: Path, submissions: Path) -> dict[str, list[str]]:
    """Return {name of a run: what needs it}, for example {"dual_stream-1a2b3c4d": ["ensemble
    final"]}.

    An ensemble or a packed folder needs its members, the pretrained runs that these started from,
    and the teachers of their pseudo-labels: `train.sh` of a submission makes all of them again.
    Packed folders are looked for in `submissions` and in the work folder, where the demo puts them.
    Raises IntegrityFault when an ensemble, a packed folder or a run is damaged: then it is unknown
    what they need.
    """
    in_use: dict[str, list[str]] = {}
    for user, folds in _roots(work, submissions).items():
        lineage = Lineage(work)
        for name, needed in folds.items():
            lineage.add_run(name, needed)
        for name in lineage.runs:
            in_use.setdefault(name, []).append(user)
    return in_use


def check_removable(runs: Iterable[Run], all_runs: Iterable[Run], in_use: dict) -> None:
    """Refuse to remove a run that an ensemble, a submission or a remaining run needs.

    Raises UsageFault.
    """
    removed = {run.name for run in runs}
    for run in runs:
        users = [*in_use.get(run.name, [])]
        users += [
            f"run {other.name}"
            for other in all_runs
            if other.facts.source == run.name and other.name not in removed
        ]
        if users:
            raise UsageFault(
                f"run {run.name} is needed by {', '.join(users)}; remove these first, or keep it"
            )


def unused_runs(runs: Iterable[Run], in_use: dict[str, list[str]]) -> list[Run]:
    """List the runs that no ensemble and no submission needs."""
    return [run for run in runs if run.name not in in_use]


def remove_run(run: Run) -> None:
    """Remove the folder of a run.

    The seals go first: if the process is killed, what remains is an unfinished fold, which is
    trained again, never a damaged one. Raises FolderInUse while a fold is trained.
    """
    folds = sorted(path for path in run.folder.glob("fold-*") if path.is_dir())
    with ExitStack() as stack:
        for fold in folds:
            stack.enter_context(lock_folder(fold))
        for fold in folds:
            (fold / SEAL_FILE).unlink(missing_ok=True)
        (run.folder / RUN_FACTS_FILE).unlink(missing_ok=True)
        shutil.rmtree(run.folder)


def _roots(work: Path, submissions: Path) -> dict[str, dict[str, set[str]]]:
    """Return {"ensemble NAME" or "submission NAME": {run: folds}} of those runs that are in the
    work folder.
    """
    roots: dict[str, dict[str, set[str]]] = {}
    for seal in sorted((work / "ensembles").glob(f"[!.]*/{SEAL_FILE}")):
        roots[f"ensemble {seal.parent.name}"] = blend_folds(read_blend(seal.parent))
    for package in _list_packages(work, submissions):
        folds = roots.setdefault(f"submission {package.name}", {})
        for name in read_manifest(package)["members"]:
            run, _, fold = name.partition("/fold-")
            folds.setdefault(run, set()).add(fold)

    present = {path.parent.name for path in (work / "runs").glob(f"*/{RUN_FACTS_FILE}")}
    return {
        user: {name: folds for name, folds in needed.items() if name in present}
        for user, needed in roots.items()
    }


def _list_packages(work: Path, submissions: Path) -> list[Path]:
    homes = dict.fromkeys([work / "submissions", submissions])
    return [path.parent for home in homes for path in sorted(home.glob(f"[!.]*/{MANIFEST_FILE}"))]
