"""What a report is about, found by its name or folder."""

from pathlib import Path
from typing import NamedTuple

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.files import SEAL_FILE
from wbdc.submit.check.manifest import MANIFEST_FILE
from wbdc.sweep.sweep_result import SWEEPS_FOLDER, is_sweep
from wbdc.train.metrics import METRICS_FILE
from wbdc.train.runs import list_runs, read_run


class Subject(NamedTuple):
    """What a report is about. kind: "run", "ensemble", "submission", "sweep" or "prepared"; path:
    of its folder.
    """

    kind: str
    name: str
    path: Path


def find_subject(work: Path, name: str | None) -> Subject:
    """Return the submission, ensemble, run or sweep of a name; without one, the ensemble or run
    that was finished last.

    name: of a run, an ensemble or a sweep below `work`, or the folder of a submission or a sweep;
    also the name of a folder in `work`/submissions or submissions. Raises UsageFault.
    """
    subjects = list_subjects(work)
    if name is None:
        return _latest_subject(work, subjects)
    folder = Path(name)
    if (folder / MANIFEST_FILE).is_file():
        return Subject("submission", folder.resolve().name, folder)
    if is_sweep(folder):
        return Subject("sweep", folder.resolve().name, folder)
    for subject in subjects:
        if name == subject.name:
            return subject
    if folder.is_dir() and folder.parent != Path():
        raise UsageFault(
            f"{folder} is no packed submission and no sweep: it has no {MANIFEST_FILE}, sweep.json "
            "or trials.log"
        )
    names = list(dict.fromkeys(subject.name for subject in subjects))
    raise UsageFault(
        f"no run, ensemble, submission or sweep called {name!r} in {work}"
        f"{suggest_name(name, names)}"
    )


def list_subjects(work: Path) -> list[Subject]:
    """List the ensembles, runs and sweeps below `work` and the submissions beside it, ensembles
    first: an ensemble and its submission often have the same name.
    """
    ensembles = [path.parent for path in sorted((work / "ensembles").glob(f"[!.]*/{SEAL_FILE}"))]
    runs = [run.folder for run in list_runs(work, None) if run.folds() or run.unfinished_folds()]
    homes = dict.fromkeys([work / "submissions", Path("submissions")])
    packages = [path.parent for home in homes for path in sorted(home.glob(f"*/{MANIFEST_FILE}"))]
    sweeps = [path for path in sorted((work / SWEEPS_FOLDER).glob("[!.]*")) if is_sweep(path)]
    kinds = {"ensemble": ensembles, "run": runs, "submission": packages, "sweep": sweeps}
    return [Subject(kind, path.name, path) for kind, paths in kinds.items() for path in paths]


def _latest_subject(work: Path, subjects: list[Subject]) -> Subject:
    """Return the ensemble or training that was finished last; without one, the training that was
    logged last. Raises UsageFault.
    """
    trained = [
        subject
        for subject in subjects
        if subject.kind == "ensemble"
        or (subject.kind == "run" and read_run(subject.path).stage == "train")
    ]
    finished = [subject for subject in trained if _times(subject, SEAL_FILE)]
    pattern = SEAL_FILE if finished else METRICS_FILE
    candidates = finished or [subject for subject in trained if _times(subject, METRICS_FILE)]
    if not candidates:
        raise UsageFault(
            f"{work} has no finished run or ensemble; train one with `wbdc train --kit dual_stream "
            "--fold 0`, or report on the data with `wbdc report --prepared`"
        )
    return max(candidates, key=lambda subject: (max(_times(subject, pattern)), subject.name))


def _times(subject: Subject, name: str) -> list[float]:
    """Return when the files of a name were written, in the folder of an ensemble or of the folds of
    a run.
    """
    paths = [*subject.path.glob(name), *subject.path.glob(f"fold-*/{name}")]
    return [path.stat().st_mtime for path in paths]
