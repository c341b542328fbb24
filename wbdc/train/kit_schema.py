"""The schema of a kit: its tables, settings and plugs, and the errors for unknown, unused and
missing ones.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from wbdc.competitions import Competition, modality_content
from wbdc.core import plug
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.frame_limit import MAX_FRAMES
from wbdc.core.plug_source import plug_attribute, resolve_settings
from wbdc.core.precision_names import PRECISION_TYPES
from wbdc.data.text_settings import check_text_settings, text_settings
from wbdc.train.kit_files import STAGES
from wbdc.train.pseudo.pseudo_settings import PseudoSettings
from wbdc.train.weight_names import OTHER_PARTS

# packages by their names, because importing most of them imports torch
PLUG_PACKAGES = {
    "vision": "wbdc.nets.vision",
    "modality": "wbdc.nets.modality",
    "fusion": "wbdc.nets.fusion",
    "pooling": "wbdc.nets.pooling",
    "head": "wbdc.nets.heads",
    "estimator": "wbdc.train.estimators",
    "objective": "wbdc.train.objectives",
    "trick": "wbdc.train.tricks",
    "sampler": "wbdc.train.samplers",
    "schedule": "wbdc.train.schedules",
    "loss": "wbdc.train.losses",
}
STAGE_LISTS = ("objective", "trick")  # settings of a stage that are lists of plug tables
# settings of a stage that are one plug table, with their defaults
STAGE_CHOICES = {"sampler": {"use": "shuffled"}, "schedule": {"use": "cosine"}}
STAGE_PLUGS = (*STAGE_LISTS, *STAGE_CHOICES)
NESTED_PLUGS = ("loss",)  # chosen by settings of other plugs
MODEL_PLUGS = ("vision", "fusion", "pooling", "head", "estimator")  # tables that choose a plug
MODALITY_TABLE = "modality"  # holds one plug table for each further modality, by its name
KIT_TABLES = ("text", "trunk", *MODEL_PLUGS, MODALITY_TABLE, *STAGES, "serve")
# a kit with [estimator] fits it at once, and has none of the tables of a network
ESTIMATOR_KIT_TABLES = ("estimator", "serve")
DEFAULT_POOLING = {"use": "mean"}
REQUIRED_SETTINGS = ("competition", "text", "trunk", "vision", "fusion", "train")
MAX_COUNT = 10**9  # of epochs, of videos per batch, of batches per step
STAGE_RANGES = {
    "weight_decay": (0.0, 1e6),
    "warmup": (0.0, 1.0),
    "validate_every": (0.0, 1e6),
    "patience": (0, MAX_COUNT),
    "probe_every": (0.0, 1e6),
}
WEIGHTS_TO_KEEP = ("last", "best")
VALIDATION_SETTINGS = ("validate_every", "patience", "keep")
# settings that one of the two stages lacks, and why
REFUSED_SETTINGS = {
    "train": {
        "splits": "[train] always uses the labeled split; move splits to [pretrain]",
        "probe_every": "[train] scores the held-out fold instead; set validate_every",
    },
    "pretrain": {
        "pseudo": "a pretraining reads pseudo-labels through the objective pseudo_labels",
        **{
            name: f"pretraining holds out no videos to validate; move {name} to [train]"
            for name in VALIDATION_SETTINGS
        },
    },
}
CHECKED_VOCABULARY_WORDS = 100  # any size will do to check the shapes of a network


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The settings of [pretrain] and [train].

    epochs: passes over the training videos. batch: videos per batch. accumulate: batches per step.
    learning_rate: that of each part of the model, by the prefix of its parameter names; "rest" is
    that of all other parameters. weight_decay: that of AdamW; biases and normalization weights
    have none. warmup: share of the steps over which the learning rates rise. max_grad_norm:
    maximum L2 norm of the gradient. precision: "auto", "fp32", "bf16" or "fp16".
    objective: the losses, as plug tables. trick: the tricks, as plug tables, outermost first.
    splits: the splits to pretrain on; [train] always uses the labeled split and refuses this.
    layer_decay: by part, a number d from 0 to 1; layer i of L then learns at rate * d ** (L - i),
    and embeddings at rate * d ** L.
    sampler: which videos an epoch reads, as a plug table; none means { use = "shuffled" }.
    schedule: the course of the learning rates after the warmup, as a plug table; none means
    { use = "cosine" }.
    validate_every: epochs between validations on the held-out fold, for example 0.5; 0: never;
    [pretrain] refuses this and the next two.
    patience: number of validations without a higher score after which training stops; 0 for never.
    keep: which weights are exported, "last" or "best", those of the highest validation score.
    probe_every: epochs of pretraining between measurements of the embeddings of labeled videos; 0
    for never; [train] refuses this.
    activation_checkpointing: whether layers are computed again in the backward pass, which takes a
    third more time and much less memory. compile: whether layers run through torch.compile, which
    takes a minute at the start. fully_shard: whether each of several ranks holds only a part of the
    layers, their gradients and optimizer state, for towers too large for one GPU.
    pseudo: videos with pseudo-labels that [train] reads beside the labeled ones, as a table;
    [pretrain] refuses this.
    """

    epochs: int
    batch: int
    learning_rate: dict[str, float]
    objective: list[dict]
    splits: list[str] | None = None
    accumulate: int = 1
    weight_decay: float = 0.01
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    precision: str = "auto"
    trick: list[dict] | None = None
    layer_decay: dict[str, float] | None = None
    sampler: dict | None = None
    schedule: dict | None = None
    validate_every: float = 0
    patience: int = 0
    keep: str = "last"
    probe_every: float = 1
    activation_checkpointing: bool = False
    compile: bool = False
    fully_shard: bool = False
    pseudo: dict | None = None

    def choice(self, kind: str) -> dict:
        """Return the table of the plug chosen for one of STAGE_CHOICES, for example "sampler"."""
        return getattr(self, kind) or STAGE_CHOICES[kind]


@dataclass(frozen=True, kw_only=True)
class Serve:
    """The settings of [serve]. batch: videos per batch. precision: as in training."""

    batch: int = 64
    precision: str = "auto"


def trunk_settings(*, model: str | None = None, architecture: dict | None = None) -> None:
    """Declare the settings of [trunk], which takes one of the two.

    model: name of pretrained weights, for example "hfl/chinese-macbert-base". architecture: the
    content of a config.json of transformers, with random weights.
    """


SETTINGS_OF_TABLE = {
    "text": text_settings,
    "trunk": trunk_settings,
    "pretrain": Stage,
    "train": Stage,
    "serve": Serve,
    "train.pseudo": PseudoSettings,
}


def stage_plug_tables(stage: dict, kind: str) -> list[dict]:
    """Return the tables of the plugs of a kind that a stage uses, without the defaults.

    stage: the table of [pretrain] or [train]. kind: one of STAGE_PLUGS.
    """
    tables = stage.get(kind) or []
    return tables if kind in STAGE_LISTS else [tables] if tables else []


def kit_plug_tables(tables: dict, stages: Sequence[str] = STAGES) -> list[dict]:
    """Return the tables of a resolved kit that choose a plug, and those inside them.

    stages: the stages whose plugs are returned; those of the model always are.
    """
    chosen = _chosen_plugs(tables, stages)
    return [inner for _, table in chosen for inner in _tables_with_use(table)]


def _chosen_plugs(tables: dict, stages: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """Yield the tables that choose a plug of the model or of some stages, with its package."""
    for kind in MODEL_PLUGS:
        if kind in tables:
            yield PLUG_PACKAGES[kind], tables[kind]
    for table in tables.get(MODALITY_TABLE, {}).values():
        yield PLUG_PACKAGES[MODALITY_TABLE], table
    for stage in stages:
        for kind in STAGE_PLUGS:
            for table in stage_plug_tables(tables.get(stage, {}), kind):
                yield PLUG_PACKAGES[kind], table


def _tables_with_use(table: dict) -> list[dict]:
    inner = [t for v in table.values() if isinstance(v, dict) for t in _tables_with_use(v)]
    return [table, *inner] if "use" in table else inner


def expand_plugs(tables: dict, folder: Path) -> None:
    """Write every plug that a setting of a plug chooses as a table: `loss = "focal"` becomes
    `loss = { use = "focal" }`, so that both belong to one run.

    tables: of a checked kit, which are changed. folder: where plug files lie.
    """
    for package, table in _chosen_plugs(tables, STAGES):
        table.update(resolve_settings(package, table, folder))


def check_tables(name: str, tables: dict) -> None:
    """Refuse a kit with an unknown table, or without a required one. Raises UsageFault."""
    known = ["about", "competition", *KIT_TABLES]
    for key in tables:
        if key not in known:
            raise UsageFault(f"kit {name} has no setting {key!r}{suggest_name(key, known)}")
        if key in KIT_TABLES and not isinstance(tables[key], dict):
            raise UsageFault(f"kit {name}: {key} = {tables[key]!r} is not a table")
    for key in ("competition",) if "estimator" in tables else REQUIRED_SETTINGS:
        if key not in tables:
            raise UsageFault(f"kit {name} needs {key!r}")
    unused = [key for key in KIT_TABLES if key in tables and key not in ESTIMATOR_KIT_TABLES]
    if "estimator" in tables and unused:
        raise UsageFault(
            f"kit {name}: [{unused[0]}] has no effect beside [estimator], which is fitted without a"
            " network; remove one of them"
        )


def check_kit(
    name: str, folder: Path, tables: dict, contest: Competition, *, builds_model: bool = True
) -> None:
    """Refuse a kit with an unknown, unused or missing setting. Builds no network of real size.

    folder: where plug files lie; builds_model: also build trunk.architecture without memory, or an
    estimator, which imports torch. Raises UsageFault.
    """
    for key, settings in SETTINGS_OF_TABLE.items():
        outer, _, inner = key.partition(".")
        table = tables.get(outer, {}).get(inner) if inner else tables.get(outer)
        if table is not None:
            plug.check_settings(f"kit {name}: {key}", settings, table)
            _check_numbers(f"kit {name}: {key}", table)
    if "estimator" in tables:
        resolve_settings(PLUG_PACKAGES["estimator"], tables["estimator"], folder)
        if builds_model:
            estimators = import_module(PLUG_PACKAGES["estimator"])
            plug.build_plug(estimators, tables["estimator"], contest.fields, kit_folder=folder)
        return

    for stage, refused in REFUSED_SETTINGS.items():
        for setting in sorted(refused.keys() & tables.get(stage, {}).keys()):
            raise UsageFault(
                f"kit {name}: {stage}.{setting} is not a setting, because {refused[setting]}"
            )
    _check_validation(f"kit {name}: train", tables["train"])
    if pseudo := tables["train"].get("pseudo"):
        PseudoSettings(**pseudo)  # refuses values out of bounds

    _check_text(name, tables, contest)
    for kind in [kind for kind in MODEL_PLUGS if kind in tables]:
        resolve_settings(PLUG_PACKAGES[kind], tables[kind], folder)
    _check_modalities(name, tables.get(MODALITY_TABLE, {}), folder, contest)
    for stage in STAGES:
        for kind in STAGE_LISTS:
            _check_plugs(f"kit {name}: {stage}.{kind}", kind, tables.get(stage, {}), folder)
        _check_choices(tables.get(stage, {}), folder)
    _check_frames(tables["vision"])
    if tables["vision"].get("frozen"):
        _check_frozen(tables["vision"], folder)
    if builds_model and "architecture" in tables["trunk"]:
        _check_architecture(tables, tables["trunk"]["architecture"])


def _check_modalities(name: str, towers: dict, folder: Path, contest: Competition) -> None:
    """Check the towers of further modalities, and that the contest has these."""
    for modality, table in towers.items():
        if not isinstance(table, dict):
            raise UsageFault(
                f"kit {name}: modality.{modality} takes a table like {{ use = ... }}, not {table!r}"
            )
        if modality not in contest.modalities:
            hint = suggest_name(modality, list(contest.modalities))
            listed = ", ".join(contest.modalities) or "none"
            raise UsageFault(
                f"kit {name}: the contest has no modality {modality!r} beside text and frames (it "
                f"has {listed}){hint}; name the path of its files in the contest's file"
            )
        resolve_settings(PLUG_PACKAGES[MODALITY_TABLE], table, folder)
        _check_modality_files(f"kit {name}: modality.{modality}", table, folder, contest, modality)


def _check_modality_files(
    setting: str, table: dict, folder: Path, contest: Competition, modality: str
) -> None:
    """Check that a tower reads what the contest's files of its modality hold."""
    package = PLUG_PACKAGES[MODALITY_TABLE]
    path = contest.modalities[modality]
    content = modality_content(path)
    reads = plug_attribute(package, table["use"], "reads", folder)
    if reads == content:
        return
    able = [
        use
        for use in plug.plug_names(import_module(package))
        if plug_attribute(package, use, "reads") == content
    ]
    raise UsageFault(
        f"{setting}.use = {table['use']!r} reads {reads}, and the contest's files {path!r} hold "
        f"{content}; use one of {', '.join(able)}"
    )


def _check_plugs(setting: str, kind: str, stage: dict, folder: Path) -> None:
    """Check the objectives or the tricks of a stage."""
    for table in stage.get(kind) or []:
        if not isinstance(table, dict):
            raise UsageFault(f"{setting} takes tables like {{ use = ... }}, not {table!r}")
        resolve_settings(PLUG_PACKAGES[kind], table, folder)


def _check_choices(stage: dict, folder: Path) -> None:
    """Check the sampler and the schedule of a stage. A schedule is built, since it has no host."""
    if "sampler" in stage:
        resolve_settings(PLUG_PACKAGES["sampler"], stage["sampler"], folder)
    if "schedule" in stage:
        schedules = import_module(PLUG_PACKAGES["schedule"])
        plug.build_plug(schedules, stage["schedule"], kit_folder=folder)


def _check_numbers(name: str, table: dict) -> None:
    """Check the counts, rates, ranges and the precision of a table. name: "kit toy: train"."""
    for count in ("epochs", "batch", "accumulate"):
        if not 1 <= table.get(count, 1) <= MAX_COUNT:
            raise UsageFault(
                f"{name}.{count} = {table[count]}; it must be between 1 and {MAX_COUNT:,}"
            )

    _check_rates(name, table.get("learning_rate"))
    _check_layer_decay(name, table.get("layer_decay") or {}, table.get("learning_rate", {}))
    for setting, (lowest, highest) in STAGE_RANGES.items():
        if setting in table and not lowest <= table[setting] <= highest:
            raise UsageFault(
                f"{name}.{setting} = {table[setting]}; "
                f"it must be between {lowest:g} and {highest:g}"
            )
    if table.get("max_grad_norm", 1.0) <= 0:
        raise UsageFault(f"{name}.max_grad_norm = {table['max_grad_norm']}; it must be above 0")
    if table.get("objective") == []:
        raise UsageFault(f"{name}.objective is empty; add at least one loss to train with")

    known = ["auto", *PRECISION_TYPES]
    precision = table.get("precision", "auto")
    if precision not in known:
        raise UsageFault(
            f"{name}: no precision called {precision!r}{suggest_name(precision, known)}"
        )


def _check_validation(name: str, table: dict) -> None:
    """Check the settings about validation. name: "kit toy: train"."""
    keep = table.get("keep", WEIGHTS_TO_KEEP[0])
    if keep not in WEIGHTS_TO_KEEP:
        hint = suggest_name(keep, list(WEIGHTS_TO_KEEP))
        raise UsageFault(f"{name}.keep takes last or best, not {keep!r}{hint}")
    for setting, unset in (("patience", 0), ("keep", "last")):
        if table.get(setting, unset) != unset and not table.get("validate_every"):
            raise UsageFault(
                f"{name}.{setting} = {table[setting]!r} has no effect without validation; "
                "set validate_every, for example to 1 epoch"
            )


def _check_rates(name: str, rates: dict | None) -> None:
    if rates is None:
        return

    for part, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise UsageFault(
                f"{name}.learning_rate of {part!r} = {rate!r} is not a number; "
                "write a part with a dot in its name in quotes"
            )
        if not 0 <= rate <= sys.float_info.max:
            raise UsageFault(
                f"{name}.learning_rate of {part!r} = {rate}; a rate is a finite number of 0 or more"
            )
    if OTHER_PARTS not in rates:
        raise UsageFault(
            f"{name}.learning_rate needs a value for {OTHER_PARTS!r}, the weights that no other "
            "part names"
        )


def _check_layer_decay(name: str, decays: dict, rates: dict) -> None:
    for part, decay in decays.items():
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 < decay <= 1:
            raise UsageFault(
                f"{name}.layer_decay of {part!r} = {decay!r}; it must be a number above 0 and at "
                "most 1; write a part with a dot in its name in quotes"
            )
        if part == OTHER_PARTS or part not in rates:
            parts = [known for known in rates if known != OTHER_PARTS]
            raise UsageFault(
                f"{name}.layer_decay of {part!r}: name a part of learning_rate other than "
                f"{OTHER_PARTS!r}{suggest_name(part, parts)}"
            )


def _check_text(name: str, tables: dict, contest: Competition) -> None:
    """Check [text] and its agreement with [trunk] and the contest."""
    text = tables["text"]
    trunk = tables["trunk"]
    if ("model" in trunk) == ("architecture" in trunk):
        raise UsageFault(
            f"kit {name}: trunk takes either model (pretrained) or architecture (random weights)"
        )
    if ("vocabulary" in text) != ("architecture" in trunk):
        raise UsageFault(
            f"kit {name}: text.vocabulary and trunk.architecture are set together; "
            "a pretrained trunk (trunk.model) has its own vocabulary"
        )

    for field in [*text["fields"], *text.get("tail", [])]:
        if field not in contest.fields:
            hint = suggest_name(str(field), list(contest.fields))
            raise UsageFault(
                f"kit {name}: competition {tables['competition']!r} has no text field "
                f"{field!r}{hint}"
            )

    check_text_settings(f"kit {name}: text", text)


def _check_frames(vision: dict) -> None:
    """Refuse an impossible number of frames."""
    frames = vision.get("frames", 1)
    if isinstance(frames, int) and not 1 <= frames <= MAX_FRAMES:
        raise UsageFault(f"vision.frames = {frames}; it must be between 1 and {MAX_FRAMES}")


def _check_frozen(vision: dict, folder: Path) -> None:
    """Refuse a frozen tower whose added layers would keep their random weights."""
    if not vision.get("weights") and plug_attribute(
        PLUG_PACKAGES["vision"], vision["use"], "adds_random_layers", folder
    ):
        raise UsageFault(
            f"vision {vision['use']!r}: frozen = true would keep its temporal modules at random "
            "weights; freeze only the image tower: tower = { ..., frozen = true }"
        )


def _check_architecture(tables: dict, architecture: dict) -> None:
    """Refuse an architecture that cannot be built; imports torch."""
    # a user's plug may need real tensors
    is_packaged = not any(tables[kind]["use"].endswith(".py") for kind in ("fusion", "pooling"))
    keys = ("fusion", "pooling", MODALITY_TABLE)
    fusion_tables = {key: tables[key] for key in keys if key in tables} if is_packaged else {}
    positions = _trunk_positions(
        json.dumps(architecture, default=str), json.dumps(fusion_tables, default=str)
    )
    length = tables["text"].get("length", 256)
    if positions is not None and length > positions:
        raise UsageFault(
            f"text.length = {length} exceeds the trunk's {positions} positions; "
            "lower it, or raise trunk.architecture.max_position_embeddings"
        )


@cache
def _trunk_positions(architecture: str, fusion_tables: str) -> int | None:
    """Build a trunk, and a fusion with it, without memory; return the positions of the trunk.

    architecture, fusion_tables: JSON. A command checks its kit several times.
    """
    import torch

    from wbdc.nets.model import build_fusion
    from wbdc.nets.trunk import Trunk

    tables = json.loads(fusion_tables)
    import_module("transformers.modeling_utils")  # before its tensors would be on the meta device
    with torch.device("meta"):  # shapes only: no memory, no time
        trunk = Trunk({"vocab_size": CHECKED_VOCABULARY_WORDS, **json.loads(architecture)})
        if tables:
            build_fusion(tables, trunk)
    return trunk.positions
