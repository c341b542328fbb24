"""The results of steps: their names, which follow from what determines them, and whether they are
finished.
"""

from dataclasses import dataclass, field
from pathlib import Path

from wbdc.core.errors import UsageFault
from wbdc.core.files import SEAL_FILE, json_digest
from wbdc.prepare.dataset import PreparedData, open_prepared
from wbdc.recipes.recipe import Recipe
from wbdc.recipes.step import RecipeStep
from wbdc.recipes.step_kit import open_step_kit
from wbdc.submit.check.manifest import MANIFEST_FILE
from wbdc.train.session import open_session

RESULT_FOLDERS = {"ensemble": "ensembles", "pseudo": "pseudo"}  # of a work folder


@dataclass(frozen=True)
class RecipeOptions:
    """How a recipe is run, whatever its steps are.

    data: folder of the raw data; None to use the data that are prepared. prepared: their hash;
    None: the latest. submissions: folder for the packed folders. measures: whether trainings whose
    time is not known are estimated from a few steps.
    """

    work: Path
    data: Path | None = None
    prepared: str | None = None
    tiny: bool = False
    device: str = "auto"
    threads: int | None = None
    submissions: Path = Path("submissions")
    measures: bool = False


@dataclass(frozen=True)
class StepResult:
    """The result of a step whose sources are finished.

    name: of the run or the ensemble, or the path of the folder. is_finished: whether it exists as a
    whole. note: what remains to be done, or what is reused.
    """

    name: str
    is_finished: bool
    note: str = ""


@dataclass
class RecipeState:
    """What is known while the steps are walked in order.

    prepared: None before the data are prepared. results: of the finished steps, by step.
    """

    recipe: Recipe
    options: RecipeOptions
    prepared: PreparedData | None = None
    results: dict[str, StepResult] = field(default_factory=dict)

    def waits_for(self, step: RecipeStep) -> list[str]:
        """List the steps that must be finished before the result of `step` has a name."""
        if step.command != "prepare" and self.prepared is None:
            first = self.recipe.steps[0]
            return [first.name] if first.command == "prepare" else ["prepared data"]
        return [name for name in step.sources() if name not in self.results]

    def find_result(self, step: RecipeStep) -> StepResult:
        """Return the result of a step whose sources are finished. Raises UsageFault for a step that
        does not fit the data.
        """
        if step.command == "prepare":
            return _find_prepared(step, self)
        if step.command in ("pretrain", "train"):
            return _find_run(step, self)
        if step.command == "verify":
            return StepResult(self.results[step.options["submission"]].name, False)

        name = f"{step.name}-{_content_hash(step, self)}"
        if step.command == "submit":
            into = self.options.submissions / f"{self.recipe.file_name}-{name}"
            return StepResult(str(into), (into / MANIFEST_FILE).is_file())
        home = self.options.work / RESULT_FOLDERS[step.command]
        return StepResult(name, (home / name / SEAL_FILE).is_file())

    def names(self) -> dict[str, str]:
        """Return the names of the results of the finished steps."""
        return {step: result.name for step, result in self.results.items()}

    def add(self, step: RecipeStep, result: StepResult) -> None:
        """Record the result of a finished step, for the steps that refer to it."""
        self.results[step.name] = result
        if step.command == "prepare":
            self.prepared = open_prepared(self.options.work, result.name)


def start_state(recipe: Recipe, options: RecipeOptions) -> RecipeState:
    """Return the state before the first step."""
    state = RecipeState(recipe, options)
    if recipe.steps[0].command != "prepare":
        state.prepared = open_prepared(options.work, options.prepared)
    return state


def _find_prepared(step: RecipeStep, state: RecipeState) -> StepResult:
    """Return the prepared data: those of --data, or without --data those that exist."""
    options = state.options
    if options.data is None:
        prepared = open_prepared(options.work, options.prepared)
        return StepResult(prepared.hash, True, "already prepared")

    try:
        prepared = open_prepared(options.work)
    except UsageFault:  # nothing is prepared yet
        return StepResult("", False)
    facts = prepared.facts
    is_same = (
        Path(facts.data_folder) == options.data.resolve()
        and facts.fold_count == step.options.get("folds", 5)
        and facts.seed == step.options.get("seed", 0)
    )
    return StepResult(prepared.hash if is_same else "", is_same)


def _find_run(step: RecipeStep, state: RecipeState) -> StepResult:
    """Return the run of a training step, by the code that trains it."""
    options = state.options
    kit = open_step_kit(state.recipe, step, options.tiny, state.names())
    settings = {
        key: step.options[key] for key in ("fold", "seed", "without") if key in step.options
    }
    sources = [state.results[name].name for name in step.names("from")]
    if step.command == "train":
        settings["source"] = sources[0] if sources else "none"
    session = open_session(
        step.command,
        kit,
        options.work,
        prepared=state.prepared.hash,
        device=options.device,
        threads=options.threads,
        computes=False,  # the command of the step trains, in a process of its own
        **settings,
    )
    finished = session.run.folds()
    done = [fold for fold in session.folds if fold in finished]
    note = f"{len(done)} of {len(session.folds)} folds finished" if done else ""
    is_finished = len(done) == len(session.folds)
    return StepResult(session.run.name, is_finished, "" if is_finished else note)


def _content_hash(step: RecipeStep, state: RecipeState) -> str:
    """Hash what determines the result of a step: its options, the results and the folds of the
    steps that it refers to, and the data.
    """
    steps = {other.name: other for other in state.recipe.steps}
    sources = [
        (state.results[name].name, steps[name].options.get("fold")) for name in step.sources()
    ]
    options = {
        key: value for key, value in step.options.items() if key not in step.rules.references
    }
    return json_digest(step.command, options, sources, state.prepared.hash)[:8]
