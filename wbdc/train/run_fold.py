"""One fold of a run: pretrain on every video, or fine-tune on a fold's training videos and evaluate
the held-out ones.
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from wbdc.core.device import find_device
from wbdc.core.files import file_sha256, lock_folder, seal_folder, sealed_facts
from wbdc.core.folders import remove_empty_run, remove_if_empty
from wbdc.core.integrity import verify_seal
from wbdc.core.ranks import Ranks
from wbdc.core.weights import weights_fingerprint
from wbdc.prepare.view import View, open_view
from wbdc.train import state
from wbdc.train.dataset import Dataset
from wbdc.train.estimator_plan import EstimatorPlan
from wbdc.train.export import evaluate_fold
from wbdc.train.fit_estimator import fit_fold
from wbdc.train.hardware import Hardware
from wbdc.train.initial_model import InitialModel, start_from
from wbdc.train.log_file import log_to_file
from wbdc.train.pseudo.extra_rows import join_extra_rows
from wbdc.train.pseudo.pseudo_settings import PseudoSettings
from wbdc.train.pseudo.seen_folds import SEEN_FOLDS, stage_seen_folds
from wbdc.train.reporter import Reporter
from wbdc.train.runs import ALL_FOLDS, SETTING_FILES, Run, publish_run
from wbdc.train.stage_plan import StagePlan, check_fold
from wbdc.train.train_fold import train_fold
from wbdc.train.training_setup import FoldVideos
from wbdc.train.views import training_inputs

SCORE_SHAPE = {str: float}
FOLD_SHAPE = {
    "seconds": float,
    "steps": int,
    "last": dict,
    "chance": dict,
    "weights": {str: str},
    "pretrained": dict,
    "score?": SCORE_SHAPE,
    "official?": SCORE_SHAPE,
    "validations?": [{"step": int, "score": (float, None)}],
    "running_mean?": {str: float},
    "probes?": [
        {
            "step": int,
            "knn_accuracy": (float, None),
            "majority_accuracy": float,
            "effective_rank": (float, None),
        }
    ],
    "alarms?": [{"kind": str, "name": str, "step": int, "message": str, "ended_step": (int, None)}],
}
SEALED_SUFFIXES = (".safetensors", ".json", ".parquet", ".py", ".toml")


def run_fold(
    plan: StagePlan | EstimatorPlan, fold: str, hardware: Hardware, reporter: Reporter
) -> dict:
    """Train and evaluate one fold; return its facts. Returns at once when the fold is finished.

    fold: "0", "1", ..., or "all", which trains on every row and evaluates nothing. Resumes from the
    last saved state and ends with the same bits. Of several ranks, the first one locks the folder
    and writes the files. Raises FolderInUse and what `check_fold` and `train_fold` raise.
    """
    if isinstance(plan, StagePlan):
        check_fold(plan, fold)
    ranks = hardware.ranks
    folder = plan.run.fold(fold)
    if ranks.broadcast(sealed_facts(folder) is not None):
        facts = verify_seal(folder, shape=FOLD_SHAPE)
        report_reuse(plan.run, fold, reporter)
        return facts

    with _locked(folder, plan.run, ranks):
        if ranks.is_main:
            reporter = log_to_file(folder, reporter)
        train = _train_network if isinstance(plan, StagePlan) else _fit_estimator
        facts = train(plan, folder, fold, hardware, reporter)
        facts["command"] = train_command(plan, fold, hardware, bool(facts["pretrained"]))
        ranks.on_main(lambda: _finish(folder, plan.run, facts))
    return sealed_facts(folder)


def report_reuse(run: Run, fold: str, reporter: Reporter) -> None:
    """Log that a fold was trained by an earlier command."""
    reporter.log(f"fold {fold} of {run.name} is already trained; its results are reused")


def _train_network(
    plan: StagePlan, folder: Path, fold: str, hardware: Hardware, reporter: Reporter
) -> dict:
    """Train a network, export it and score the held-out videos; return the facts of the fold."""
    initial = _build_model(plan, fold, hardware.ranks, reporter)
    dataset = _open_dataset(plan, initial, hardware, reporter)
    videos = add_pseudo_labels(plan, split_videos(plan, dataset, fold), fold, reporter)
    facts = train_fold(plan, folder, initial, videos, hardware, reporter)
    if len(videos.held_out):
        facts |= evaluate_fold(
            folder, fold, plan, initial.model, dataset, videos.held_out, hardware
        )
    return facts | _label_facts(plan, fold) | _file_facts(plan)


def _fit_estimator(
    plan: EstimatorPlan, folder: Path, fold: str, hardware: Hardware, reporter: Reporter
) -> dict:
    """Fit an estimator on the first rank; return the facts of the fold on all."""
    facts: dict = {}

    def fit() -> None:
        publish_run(plan.run)
        facts.update(fit_fold(plan, folder, fold, hardware, reporter))

    hardware.ranks.on_main(fit)
    return hardware.ranks.broadcast(facts)


def _finish(folder: Path, run: Run, facts: dict) -> None:
    """Seal the folder of a fold, and remove the saved states."""
    seal_folder(folder, facts, _files_to_seal(folder))
    publish_run(run)  # again: a sweep removes run.json from a run without finished folds
    state.discard_state(folder)


def train_command(
    plan: StagePlan | EstimatorPlan, fold: str, hardware: Hardware, uses_pretrained: bool
) -> str:
    """Return the command that trains a fold again, to the same bits on this machine.

    It lacks --work, because the work folder may move.
    """
    facts = plan.run.facts
    ranks = hardware.ranks.size
    program = ["torchrun", "--nproc-per-node", str(ranks), "-m"] if ranks > 1 else []
    words = [*program, "wbdc", facts.stage, *plan.kit_options]
    if facts.stage == "train":
        words += ["--fold", fold, "--from", facts.source or "none"]
    elif fold != ALL_FOLDS:
        words += ["--fold", fold]
    if facts.without:
        words += ["--without", facts.without]
    if facts.seed:
        words += ["--seed", str(facts.seed)]
    words += ["--prepared", facts.data, "--threads", str(hardware.threads)]
    if hardware.device.type != find_device("auto").type or (
        ranks == 1 and hardware.device != find_device("auto")
    ):
        words += ["--device", str(hardware.device)]
    if uses_pretrained and (weights := os.environ.get("WBDC_WEIGHTS")):
        words += ["--weights", os.path.abspath(weights)]
    return shlex.join(words)


@contextmanager
def _removed_if_empty(run: Run, folder: Path) -> Iterator[None]:
    """When the block fails before anything was trained, remove the folder of the fold, and that of
    a run without folds.
    """
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty, or in use by another process
            remove_if_empty(folder)
            remove_empty_run(run.folder)
        raise


@contextmanager
def _locked(folder: Path, run: Run, ranks: Ranks) -> Iterator[None]:
    """Lock the folder of a fold for a block, by the first rank. Raises FolderInUse on all ranks."""
    with ExitStack() as stack:
        with ranks.failing_together():
            if ranks.is_main:
                stack.enter_context(lock_folder(folder))
                stack.enter_context(_removed_if_empty(run, folder))
        yield


def _build_model(plan: StagePlan, fold: str, ranks: Ranks, reporter: Reporter) -> InitialModel:
    """Build the model, load the weights of the pretrained run, and report where they come from.

    Raises IntegrityFault when the ranks have different weights.
    """
    with ranks.failing_together():
        initial = plan.build_model()
        if plan.source:
            start = plan.source.fold(plan.source.start_fold(fold))
            initial.weights["start"] = start_from(initial, start)
    if ranks.size > 1:
        ranks.check_equal({"weights": weights_fingerprint(initial.model.state_dict())[:12]})
    ranks.on_main(lambda: publish_run(plan.run))
    for part, origin in initial.weights.items():
        reporter.log(f"weights of {part}: {origin}")
    return initial


def _open_dataset(
    plan: StagePlan, initial: InitialModel, hardware: Hardware, reporter: Reporter
) -> Dataset:
    """Open the splits that the stage reads; their views are made first where they are missing."""
    inputs = training_inputs(initial, plan.needs_pixels, hardware.device)
    open_split = partial(
        open_view,
        plan.prepared,
        inputs,
        store=hardware.store,
        threads=hardware.threads,
        progress=lambda task, done, total: reporter.progress(task, done, total, ""),
    )
    views = hardware.ranks.main_first(lambda: [open_split(split) for split in plan.splits])
    return join_splits(plan, views)


def join_splits(plan: StagePlan, views: Sequence[View]) -> Dataset:
    """Join the splits that the stage reads to one dataset. views: of each split.

    Labels become class codes here; -1 is a video without a label.
    """
    codes = {name: code for code, name in enumerate(plan.run.facts.classes)}
    ids: list[str] = []
    labels: list[int] = []
    rows: list[tuple[int, int]] = []
    for number, split in enumerate(plan.splits):
        table = plan.prepared.read_split(split, ["id", "label"])
        ids += table["id"].to_list()
        labels += [codes.get(label, -1) for label in table["label"].to_list()]
        rows += [(number, row) for row in range(len(table))]
    return Dataset(ids, np.array(labels), views, np.array(rows), plan.run.facts.without)


def split_videos(plan: StagePlan, dataset: Dataset, fold: str) -> FoldVideos:
    """Divide the videos of a dataset into those to train on and those that a fold holds out.

    A pretraining reads all videos, without the labels of the fold. A fine-tuning reads the labeled
    split alone; videos with pseudo-labels are added afterwards.
    """
    if plan.run.facts.stage == "pretrain":
        hidden = _hide_labels(plan, dataset, fold)
        return FoldVideos(hidden, np.arange(len(dataset.ids)), np.array([], int), fold)
    folds = plan.prepared.read_folds()  # of the labeled split, the first in the dataset
    is_held_out = np.zeros(len(folds), bool) if fold == ALL_FOLDS else folds == int(fold)
    return FoldVideos(dataset, np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out), fold)


def _hide_labels(plan: StagePlan, dataset: Dataset, fold: str) -> Dataset:
    """Return a dataset without the labels of a fold; "all" hides none."""
    labeled_split = plan.prepared.facts.labeled_split
    if fold == ALL_FOLDS or labeled_split not in plan.splits:
        return dataset
    labels = dataset.labels.copy()
    labeled = np.flatnonzero(dataset.rows[:, 0] == plan.splits.index(labeled_split))
    labels[labeled[plan.prepared.read_folds() == int(fold)]] = -1
    return replace(dataset, labels=labels)


def add_pseudo_labels(
    plan: StagePlan, videos: FoldVideos, fold: str, reporter: Reporter
) -> FoldVideos:
    """Add the videos that [train.pseudo] chooses to the training videos of a fold."""
    if not plan.stage.pseudo:
        return videos
    settings = PseudoSettings(**plan.stage.pseudo)
    rows = plan.pseudo_sets[settings.name].read(fold)
    joined = join_extra_rows(videos, rows, settings, len(plan.run.facts.classes))
    count = len(joined.training) - len(videos.training)
    reporter.log(
        f"trains on {len(videos.training):,} labeled videos and {count:,} with {settings.labels} "
        f"labels of {settings.name}"
    )
    return joined


def _label_facts(plan: StagePlan, fold: str) -> dict:
    """Return what a fold records of labels: the folds that it saw, and its pseudo-labels."""
    sets = plan.pseudo_sets.values()
    digests = {opened.name: opened.digest(fold) for opened in sets}
    facts = {"pseudo": digests} if digests else {}
    return facts | {SEEN_FOLDS: sorted(stage_seen_folds(plan, fold))}


def _file_facts(plan: StagePlan) -> dict:
    """Return where the files that settings name are, and their hashes, for packing them."""
    files = {
        name: {"path": os.path.abspath(path), "sha256": file_sha256(path)}
        for name, path in plan.setting_files.items()
    }
    return {SETTING_FILES: files} if files else {}


def _files_to_seal(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in SEALED_SUFFIXES and not path.name.startswith("state")
    ]
