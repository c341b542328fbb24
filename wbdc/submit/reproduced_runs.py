"""The runs that lead to a submission: its members, what they started from, and their teachers."""

from dataclasses import dataclass, field
from pathlib import Path

from wbdc.core.errors import IntegrityFault
from wbdc.core.files import file_sha256, read_seal
from wbdc.serve.blend_file import Blend, BlendMember
from wbdc.train.pseudo.pseudo_set import PseudoSet, open_pseudo
from wbdc.train.runs import SETTING_FILES, Run, RunFacts, finished_folds, read_run


@dataclass
class Lineage:
    """What must be made again for a submission, in the order in which it is made.

    home: work folder. steps: runs with the folds to train, and pseudo-labels; a run comes again
    when more of its folds are needed later.
    """

    home: Path
    steps: list[tuple[Run, set[str]] | PseudoSet] = field(default_factory=list)
    trained: dict[str, set[str]] = field(default_factory=dict)

    def add_run(self, name: str, folds: set[str]) -> None:
        """Add some folds of a run, after all that they need. Raises IntegrityFault."""
        missing = folds - self.trained.get(name, set())
        if not missing:
            return
        run = Run(self.home / "runs" / name, read_run(self.home / "runs" / name))
        for pseudo_name, expected in sorted(run.facts.pseudo.items()):
            self._add_pseudo(pseudo_name, expected)
        if run.facts.source:
            source = read_run(self.home / "runs" / run.facts.source)
            self.add_run(run.facts.source, folds if source.per_fold else {"all"})
        self.trained.setdefault(name, set()).update(folds)
        self.steps.append((run, folds))

    def _add_pseudo(self, name: str, expected: str) -> None:
        """Add pseudo-labels after their teachers, once."""
        if any(isinstance(step, PseudoSet) and step.name == name for step in self.steps):
            return
        opened = open_pseudo(self.home, name)
        if opened.hash != expected:
            raise IntegrityFault(
                f"pseudo-labels {name} have other teachers or settings than those that the runs of "
                "this submission were trained on; make the old ones again under that name"
            )
        needed = set(opened.facts["source"]["blend"].get("folds", []))
        for member in opened.facts["source"]["members"]:
            self.add_run(member["run"], {*member["folds"], *needed})
        self.steps.append(opened)

    @property
    def runs(self) -> dict[str, RunFacts]:
        """All runs by their names."""
        return {step[0].name: step[0].facts for step in self.steps if isinstance(step, tuple)}


def trace_lineage(home: Path, blend: Blend) -> Lineage:
    """Trace what must be made again for the members of a blend. Raises IntegrityFault."""
    lineage = Lineage(home)
    for run, folds in blend_folds(blend).items():
        lineage.add_run(run, folds)
    return lineage


def blend_folds(blend: Blend) -> dict[str, set[str]]:
    """Return the folds of each run of a blend, with those that only the blend's score needs."""
    folds: dict[str, set[str]] = {}
    for member in blend.members:
        folds.setdefault(member.run, set(blend.settings.get("folds", []))).add(member.fold)
    return folds


def teacher_blend(opened: PseudoSet) -> Blend:
    """Return the blend of the teachers that made pseudo-labels, without its learned weights."""
    source = opened.facts["source"]
    members = tuple(
        BlendMember("", 1.0, member["serve"], run=member["run"], fold=fold)
        for member in source["members"]
        for fold in member["folds"]
    )
    return Blend("", "", members, settings=source["blend"])


def source_kit_path(name: str, facts: RunFacts) -> str:
    """Return the path of a run's kit in the package.

    The file keeps the name of the kit, so that training with it creates a run of the same name.
    """
    return f"source/kits/{name}/{facts.kit}.json"


def source_kits(lineage: Lineage, blend: Blend) -> dict[str, Path]:
    """Return {path in the package: folder of a fold} of the kits of all runs but the members."""
    members = {member.run for member in blend.members}
    return {
        source_kit_path(name, facts): _first_fold(lineage.home / "runs" / name)
        for name, facts in lineage.runs.items()
        if name not in members
    }


def setting_files(lineage: Lineage) -> dict[str, Path]:
    """Return {path in the package: file} of the files that the settings of all runs name, beside
    their kits. Raises IntegrityFault for a file that is missing or has changed.
    """
    files: dict[str, Path] = {}
    for name in lineage.runs:
        facts = read_seal(_first_fold(lineage.home / "runs" / name))
        for file_name, entry in facts.get(SETTING_FILES, {}).items():
            path = Path(entry["path"])
            if not path.is_file() or file_sha256(path) != entry["sha256"]:
                raise IntegrityFault(
                    f"{path}, which run {name} was trained with, is missing or has changed; put it "
                    "back, so that train.sh can train the run again"
                )
            files[f"source/kits/{name}/{file_name}"] = path
    return files


def _first_fold(run: Path) -> Path:
    """Return the folder of a finished fold of a run. Raises IntegrityFault when there is none."""
    folds = finished_folds(run)
    if not folds:
        raise IntegrityFault(f"{run} has no finished fold; train it again")
    return run / f"fold-{next(iter(folds))}"
