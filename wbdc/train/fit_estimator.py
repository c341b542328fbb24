"""The fit of one fold of a kit with an estimator, its export, and its out-of-fold predictions."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits

from wbdc.core.device import CPU
from wbdc.core.files import publish_file, publish_json
from wbdc.prepare.view import stored_frames
from wbdc.serve.member_files import KIND_KEY, MODEL_FILE, WEIGHTS_FILE
from wbdc.serve.members import FrameKey, Member, load_member
from wbdc.serve.predict import safe_softmax
from wbdc.serve.reader import UNREAD_FRAMES
from wbdc.train.estimator_plan import EstimatorPlan
from wbdc.train.estimators import FittedMember, LabeledVideos
from wbdc.train.hardware import Hardware
from wbdc.train.kit_files import KIT_FILE
from wbdc.train.reporter import Reporter
from wbdc.train.runs import ALL_FOLDS, OOF_FILE, write_oof
from wbdc.train.task import class_parents

# (rows of the labeled split, frame key) -> frames of each row
RowFrames = Callable[[np.ndarray, FrameKey | None], Iterator[np.ndarray]]


def fit_fold(
    plan: EstimatorPlan, folder: Path, fold: str, hardware: Hardware, reporter: Reporter
) -> dict:
    """Fit an estimator on the training videos of a fold, export it and score the held-out ones.

    fold: "0", "1", ..., or "all", which fits every row and evaluates nothing. Writes the files of
    the fold but its seal. Returns the facts of the fold. Raises UsageFault, DataFault.
    """
    start_time = time.monotonic()
    table = plan.prepared.read_split(plan.prepared.facts.labeled_split)
    folds = plan.prepared.read_folds()
    is_held_out = np.zeros(len(table), bool) if fold == ALL_FOLDS else folds == int(fold)
    training = np.flatnonzero(~is_held_out)
    read_frames = partial(_read_frames, plan, hardware.threads)

    scores = {}
    with threadpool_limits(hardware.threads):  # of BLAS, which takes all CPUs otherwise
        reporter.progress(f"fit {folder.name}", 0, 1, "")
        videos = _labeled_videos(plan, table, folds, training, read_frames)
        fitted = plan.build_estimator().fit(videos, plan.run.facts.seed)
        _export(folder, plan, fitted)
        reporter.progress(f"fit {folder.name}", 1, 1, f"{len(training):,} videos")
        if is_held_out.any():
            scores = _evaluate(folder, fold, plan, table, np.flatnonzero(is_held_out), read_frames)
    return {
        "steps": 0,
        "seconds": round(time.monotonic() - start_time, 3),
        "device": "cpu",
        "threads": hardware.threads,
        "ranks": hardware.ranks.size,
        "weights": {fitted.kind: f"fitted to {len(training):,} labeled videos"},
        "pretrained": fitted.pretrained,
        "last": {},
        "chance": {},
        "fit": fitted.notes,
        **scores,
    }


def predict_member(
    member: Member,
    ids: Sequence[str],
    texts: Sequence[dict[str, str]],
    frames: Iterator[np.ndarray],
) -> np.ndarray:
    """Return the probabilities of n videos, (n, C) float32, with the code that serves.

    frames: of each video, as the member's `frame_key` describes.
    """
    parts = []
    for start in range(0, len(ids), member.batch):
        part = slice(start, start + member.batch)
        batch = member.collate(
            ids[part], member.encode_text(texts[part]), list(islice(frames, member.batch))
        )
        logits = [lambda _, batch=batch: member.logits(batch, None)]
        parts.append(safe_softmax(logits, batch.ids, CPU, torch.float32)[0])
    return np.concatenate(parts)


def _labeled_videos(
    plan: EstimatorPlan,
    table: pl.DataFrame,
    folds: np.ndarray,
    rows: np.ndarray,
    read_frames: RowFrames,
) -> LabeledVideos:
    classes = plan.run.facts.classes
    codes = {name: code for code, name in enumerate(classes)}
    selected = table[rows]
    return LabeledVideos(
        texts=selected.select(plan.contest.fields).to_dicts(),
        labels=np.array([codes[label] for label in selected["label"].to_list()]),
        folds=folds[rows],
        class_count=len(classes),
        read_frames=partial(read_frames, rows),
        classes=classes,
        parents=class_parents(plan.contest, classes),
    )


def _export(folder: Path, plan: EstimatorPlan, fitted: FittedMember) -> None:
    """Publish the arrays, and everything that rebuilds the model."""
    tensors = {name: np.ascontiguousarray(array) for name, array in fitted.tensors.items()}
    publish_file(folder / WEIGHTS_FILE, lambda temporary: save_file(tensors, temporary))
    publish_json(folder / KIT_FILE, plan.saved_kit.tables)
    for name, path in plan.saved_kit.plug_files.items():
        publish_file(folder / name, lambda temporary, path=path: shutil.copyfile(path, temporary))
    plan.contest.save(folder)
    facts = plan.run.facts
    model = {
        KIND_KEY: fitted.kind,
        "classes": facts.classes,
        "competition": facts.competition,
        "serve": {"batch": plan.serve.batch, "precision": plan.serve.precision},
    }
    publish_json(folder / MODEL_FILE, model | fitted.facts)


def _evaluate(
    folder: Path,
    fold: str,
    plan: EstimatorPlan,
    table: pl.DataFrame,
    rows: np.ndarray,
    read_frames: RowFrames,
) -> dict:
    """Predict the held-out videos with the exported member, and publish the predictions.

    Returns {"score", "official"}, as the training of a network does.
    """
    member = load_member(folder)
    held_out = table[rows]
    ids = held_out["id"].to_list()
    frames = read_frames(rows, member.frame_key)
    probabilities = predict_member(
        member, ids, held_out.select(plan.contest.fields).to_dicts(), frames
    )
    truth = held_out["label"].to_list()
    write_oof(folder / OOF_FILE, ids, fold, truth, probabilities)
    classes = plan.run.facts.classes
    score = plan.contest.score_probabilities
    return {
        "score": score(truth, probabilities, classes),
        "official": score(truth, probabilities, classes, official=True),
    }


def _read_frames(
    plan: EstimatorPlan, threads: int, rows: np.ndarray, key: FrameKey | None
) -> Iterator[np.ndarray]:
    """Yield the frames of some labeled videos; empty ones for a model that reads no frames."""
    if key is None:
        return repeat(UNREAD_FRAMES, len(rows))
    split = plan.prepared.facts.labeled_split
    settings = key.image_settings
    return stored_frames(plan.prepared, split, rows, settings, key.frames, threads=threads)
