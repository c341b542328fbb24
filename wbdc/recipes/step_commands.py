"""What a step may be: each command with its options, what they refer to, and what it makes."""

from dataclasses import dataclass, field

PREPARED_DATA = "prepared data"
PRETRAINED_RUN = "pretrained run"
TRAINED_RUN = "run"
PSEUDO_LABELS = "pseudo-labels"
SAVED_ENSEMBLE = "ensemble"
PACKED_FOLDER = "submission"


@dataclass(frozen=True)
class StepCommand:
    """A command that a recipe may run.

    makes: what its result is, for the options of later steps; "" when no step can refer to it.
    options: those that a step may give, by name, with their types; list: a repeated option; bool: a
    flag, false being `--no-...`; dict: `--set`. references: options whose values are names of
    earlier steps, with what those must make. required: options that a step must give. machine:
    options that the recipe gives to every step.
    """

    makes: str
    options: dict[str, type] = field(default_factory=dict)
    references: dict[str, tuple[str, ...]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()

    def known_keys(self) -> list[str]:
        """List the keys that a step of this command may have besides those of every step."""
        return [*self.options, *self.references]


# a reference that replaces names in the kit, and is no option of the command
PSEUDO_KEY = "pseudo"
KIT_OPTIONS = {"kit": str, "fold": str, "set": dict, "seed": int}
TRAINING_MACHINE = ("prepared", "device", "threads", "work")

STEP_COMMANDS = {
    "prepare": StepCommand(
        PREPARED_DATA,
        {"competition": str, "folds": int, "seed": int},
        machine=("data", "threads", "work"),
    ),
    "pretrain": StepCommand(
        PRETRAINED_RUN,
        KIT_OPTIONS,
        {PSEUDO_KEY: (PSEUDO_LABELS,)},
        ("kit",),
        TRAINING_MACHINE,
    ),
    "train": StepCommand(
        TRAINED_RUN,
        {**KIT_OPTIONS, "without": str},
        {"from": (PRETRAINED_RUN,), PSEUDO_KEY: (PSEUDO_LABELS,)},
        ("kit", "fold"),
        TRAINING_MACHINE,
    ),
    "ensemble": StepCommand(
        SAVED_ENSEMBLE,
        {
            "folds": str,
            "limit": float,
            "qps": float,
            "items": int,
            "frames": str,
            "length": str,
            "clips": str,
            "crops": str,
            "precision": str,
            "openvino": bool,
            "mean": str,
            "class-priors": bool,
            "draws": int,
            "seed": int,
        },
        {"run": (TRAINED_RUN,)},
        ("run",),
        ("prepared", "device", "threads", "work"),
    ),
    "pseudo": StepCommand(
        PSEUDO_LABELS,
        {
            "split": list,
            "fold": str,
            "how": str,
            "top-k": int,
            "temperature": float,
            "neighbors": int,
        },
        {"from": (SAVED_ENSEMBLE, TRAINED_RUN)},
        ("from",),
        ("data", "prepared", "device", "threads", "work"),
    ),
    "submit": StepCommand(
        PACKED_FOLDER,
        {
            "check-latency": bool,
            "quick": bool,
            "full": bool,
            "limit": float,
            "qps": float,
            "items": int,
            "sample": int,
            "half": bool,
            "compile": bool,
            "openvino": bool,
            "gpu": list,
            "target": list,
        },
        {"ensemble": (SAVED_ENSEMBLE,), "run": (TRAINED_RUN,)},
        machine=("data", "device", "threads", "work"),
    ),
    "verify": StepCommand(
        "",
        {"rerun": bool},
        {"submission": (PACKED_FOLDER,)},
        ("submission",),
        ("device", "threads"),
    ),
}
# nothing needs to refer to what these make: it is the aim of a recipe, or the default of all others
RESULTS_IN_THEMSELVES = (PREPARED_DATA, PACKED_FOLDER, "")
