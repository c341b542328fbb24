"""A stage of a kit on a dataset, resolved once into the typed values that train its folds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wbdc.competitions import Competition
from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.prepare.dataset import PreparedData
from wbdc.train import samplers as sampler_plugs
from wbdc.train import schedules as schedule_plugs
from wbdc.train.kit import Kit, SavedKit, find_setting_file
from wbdc.train.kit_contest import check_contest
from wbdc.train.kit_schema import PLUG_PACKAGES, Serve, Stage
from wbdc.train.objective_parts.soft_labels import SoftLabels
from wbdc.train.plug_needs import has_pixel_plugs, label_readers
from wbdc.train.pseudo.named_sets import open_named_sets
from wbdc.train.pseudo.pseudo_set import PseudoSet
from wbdc.train.runs import ALL_FOLDS, Run, identify_run
from wbdc.train.samplers import Sampler
from wbdc.train.schedules import Schedule
from wbdc.train.task import Task, class_parents

if TYPE_CHECKING:  # these import torch; a plan is made without
    from torch import nn

    from wbdc.nets.model import VideoClassifier
    from wbdc.train.initial_model import InitialModel
    from wbdc.train.tricks import Trick

MODALITIES = ("text", "frames")


@dataclass(frozen=True)
class StagePlan:
    """What all folds of a run share.

    source: the pretrained run whose weights the folds start from. splits: the splits to train on.
    pseudo_sets: the pseudo-labels that the stage names.
    setting_files: the files that the stage's settings name, by the names that they are saved under.
    stage, serve: settings of the kit. needs_pixels: whether a trick changes the pixels in every
    epoch. saved_kit: the kit as each fold saves it; kit_options: the command-line options that
    choose it. build_model and the other functions build the parts of a training.
    """

    run: Run
    source: Run | None
    prepared: PreparedData
    contest: Competition
    splits: list[str]
    pseudo_sets: dict[str, PseudoSet]
    setting_files: dict[str, Path]
    stage: Stage
    serve: Serve
    needs_pixels: bool
    saved_kit: SavedKit
    kit_options: tuple[str, ...]
    build_model: Callable[[], "InitialModel"]
    build_objectives: Callable[["VideoClassifier", Task], "nn.ModuleList"]
    build_tricks: Callable[["VideoClassifier", Task], "list[Trick]"]
    build_sampler: Callable[[np.ndarray, np.ndarray, Task], Sampler]
    build_schedule: Callable[[], Schedule]


def plan_stage(
    work: Path,
    stage_name: str,
    kit: Kit,
    prepared: PreparedData,
    *,
    seed: int = 0,
    without: str | None = None,
    source: Run | None = None,
) -> StagePlan:
    """Resolve a stage of a kit on a dataset. Writes nothing: the first fold creates the run.

    stage_name: "pretrain" or "train". without: the modality to remove: "text", "frames" or one of
    [modality].
    Raises UsageFault when the kit does not fit the dataset.
    """
    modalities = [*MODALITIES, *kit.tables.get("modality", {})]
    if without not in (None, *modalities):
        raise UsageFault(
            f"--without takes {' or '.join(modalities)} with kit {kit.name}, not {without!r}"
        )

    check_contest(kit, prepared)
    stage = kit.stage(stage_name)
    pseudo_sets = open_named_sets(work, stage, kit.folder, prepared)
    splits = _training_splits(stage_name, stage, prepared, pseudo_sets)
    _check_labels(stage, splits, prepared, kit.folder)

    source_name = source.name if source else None
    name, facts = identify_run(
        stage_name,
        kit,
        prepared,
        seed=seed,
        without=without,
        source=source_name,
        pseudo={name: opened.hash for name, opened in pseudo_sets.items()},
    )
    per_fold = stage_name == "pretrain" and (
        bool(pseudo_sets) or _reads_labels(stage, splits, prepared, kit.folder)
    )
    return StagePlan(
        run=Run(work / "runs" / name, replace(facts, per_fold=per_fold)),
        source=source,
        prepared=prepared,
        contest=kit.contest,
        splits=splits,
        pseudo_sets=pseudo_sets,
        setting_files=kit.setting_files(stage_name),
        stage=stage,
        serve=kit.serving(),
        needs_pixels=has_pixel_plugs(stage, kit.folder),
        saved_kit=kit.saved(),
        kit_options=kit.options or ("--kit", kit.name),
        build_model=partial(_build_model, kit, prepared, seed),
        build_objectives=partial(_build_objectives, stage, kit.folder),
        build_tricks=partial(_build_tricks, stage, kit.folder),
        build_sampler=partial(
            plug.build_plug, sampler_plugs, stage.choice("sampler"), kit_folder=kit.folder
        ),
        build_schedule=partial(
            plug.build_plug, schedule_plugs, stage.choice("schedule"), kit_folder=kit.folder
        ),
    )


def check_fold(plan: StagePlan, fold: str) -> None:
    """Refuse a fold that holds out no videos to validate, and one whose labels the pretraining or
    the teachers of pseudo-labels saw. Raises UsageFault.
    """
    stage = plan.stage
    if fold == ALL_FOLDS and stage.validate_every:
        defaults = {"validate_every": 0, "patience": 0, "keep": "last"}
        changed = [name for name, value in defaults.items() if getattr(stage, name) != value]
        options = " ".join(f"--set train.{name}={defaults[name]}" for name in changed)
        raise UsageFault(
            "--fold all holds out no videos, so train.validate_every has nothing to validate; "
            f"add {options} to train the whole number of epochs"
        )
    for opened in plan.pseudo_sets.values():
        opened.check_fold(fold)
    _check_source(plan.source, fold)
    if plan.run.facts.stage == "pretrain" and fold != ALL_FOLDS and not plan.run.facts.per_fold:
        raise UsageFault(
            f"this pretraining reads no labels, so all folds start from the same model; leave "
            f"--fold {fold} out"
        )


def _check_source(source: Run | None, fold: str) -> None:
    """Refuse to start a fold from a pretraining that read labels, unless it hid those of the
    fold.
    """
    if source and source.facts.per_fold and fold not in source.folds():
        option = "" if fold == ALL_FOLDS else f" --fold {fold}"
        raise UsageFault(
            f"pretraining {source.name} reads labels or pseudo-labels, so fold {fold} needs a "
            f"model that did not see its labels; run `wbdc pretrain --kit {source.facts.kit}"
            f"{option}` with the options of that run, or use --from none"
        )


def _training_splits(
    stage_name: str, stage: Stage, prepared: PreparedData, pseudo_sets: dict[str, PseudoSet]
) -> list[str]:
    """Return the splits that a stage trains on; a fine-tuning begins with the labeled one. Raises
    UsageFault for the test split, or for one that the data lack.
    """
    facts = prepared.facts
    splits = stage.splits if stage_name == "pretrain" and stage.splits else [facts.labeled_split]
    if stage.pseudo:
        splits = list(dict.fromkeys([*splits, *pseudo_sets[stage.pseudo["name"]].facts["splits"]]))
    for split in splits:
        if split not in facts.video_counts or split == facts.test_split:
            raise UsageFault(
                f"pretrain.splits names {split!r}; the data has "
                f"{', '.join(sorted(facts.video_counts))}, and the test split is never trained on"
            )
    return splits


def _reads_labels(stage: Stage, splits: list[str], prepared: PreparedData, folder: Path) -> bool:
    """Return whether an objective or the sampler of a stage reads the labels of its videos."""
    return prepared.facts.labeled_split in splits and bool(label_readers(stage, folder))


def _check_labels(stage: Stage, splits: list[str], prepared: PreparedData, folder: Path) -> None:
    """Refuse a sampler or an objective that needs labels when no split has any. Raises
    UsageFault.
    """
    labeled_split = prepared.facts.labeled_split
    if labeled_split in splits:
        return

    for kind, name in label_readers(stage, folder):
        raise UsageFault(
            f"{kind} {name!r} needs labels, and no split of pretrain.splits has any; "
            f"add {labeled_split!r} to the splits, or remove the {kind}"
        )


def build_task(
    plan: StagePlan,
    labels: np.ndarray,
    total_steps: int,
    *,
    ids: Sequence[str] = (),
    vocabulary: Sequence[str] = (),
    fold: str = ALL_FOLDS,
) -> Task:
    """Describe a training to its plugs. labels: (n,) int codes of its videos, -1 for no label.
    fold: that is held out, whose pseudo-labels are read.
    """
    classes = plan.run.facts.classes
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    return Task(
        classes=tuple(classes),
        class_counts=tuple(counts.tolist()),
        parents=class_parents(plan.contest, classes),
        fields=tuple(plan.saved_kit.tables["text"]["fields"]),
        total_steps=total_steps,
        batch_size=plan.stage.batch,
        seed=plan.run.facts.seed,
        ids=tuple(ids),
        vocabulary=tuple(vocabulary),
        soft_labels=partial(_read_pseudo_labels, plan, fold, frozenset(ids)),
    )


def _read_pseudo_labels(plan: StagePlan, fold: str, ids: frozenset[str], name: str) -> SoftLabels:
    """Read the pseudo-labels of a name for a fold, of the videos that are trained on."""
    rows = plan.pseudo_sets[name].read(fold)
    chosen = rows.select(np.array([i for i, video in enumerate(rows.ids) if video in ids], int))
    if not chosen.ids:
        raise UsageFault(
            f"pseudo-labels {name} name none of the training videos; label their split with "
            "`wbdc pseudo --split`"
        )
    return SoftLabels(chosen.ids, chosen.dense(len(plan.run.facts.classes)))


def _build_model(kit: Kit, prepared: PreparedData, seed: int) -> "InitialModel":
    from wbdc.train.initial_model import build_initial_model

    return build_initial_model(kit, prepared, seed)


def _build_objectives(
    stage: Stage, folder: Path, model: "VideoClassifier", task: Task
) -> "nn.ModuleList":
    from torch import nn

    return nn.ModuleList(_build_plugs("objective", stage.objective, folder, model, task))


def _build_tricks(
    stage: Stage, folder: Path, model: "VideoClassifier", task: Task
) -> "list[Trick]":
    return _build_plugs("trick", stage.trick or [], folder, model, task)


def _build_plugs(
    kind: str, tables: list[dict], folder: Path, model: "VideoClassifier", task: Task
) -> list:
    """Build the plugs of a stage; each has its position in the kit. kind: for example "trick"."""
    package = import_module(PLUG_PACKAGES[kind])
    resolved = [_find_files(table, folder) for table in tables]
    plugs = [plug.build_plug(package, table, model, task, kit_folder=folder) for table in resolved]
    for position, instance in enumerate(plugs):
        instance.position = position
    return plugs


def _find_files(table: dict, folder: Path) -> dict:
    """Return a plug's table with the paths of the files that its settings, or those of the plugs
    inside it, name.
    """
    settings = {key: value for key, value in table.items() if key != "use"}
    inner = {k: _find_files(v, folder) for k, v in settings.items() if isinstance(v, dict)}
    texts = {key: value for key, value in settings.items() if isinstance(value, str)}
    paths = {key: find_setting_file(text, folder) for key, text in texts.items()}
    return table | inner | {key: str(path) for key, path in paths.items() if path}
