"""Run one stage of a kit: pretrain on every video, or fine-tune and judge one fold."""

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wbdc.competitions import Competition
from wbdc.core import plug
from wbdc.core.device import find_device, find_precision, precision_name
from wbdc.core.errors import Stopped, UsageFault
from wbdc.core.files import append_line, lock_folder, seal_folder, sealed_facts
from wbdc.core.folders import remove_empty_run, remove_if_empty
from wbdc.core.integrity import verify_seal
from wbdc.prepare.dataset import PreparedData
from wbdc.prepare.view import open_view
from wbdc.train import objectives as objective_plugs
from wbdc.train import state
from wbdc.train import tricks as trick_plugs
from wbdc.train.dataset import Dataset
from wbdc.train.export import export_fold, predict_held_out
from wbdc.train.fit import fit
from wbdc.train.initial_model import InitialModel, build_initial_model, check_contest, start_from
from wbdc.train.kit import Kit
from wbdc.train.kit_schema import Stage
from wbdc.train.optimizer import build_adamw, cosine_schedule, parameter_groups, set_rates
from wbdc.train.runs import ALL_FOLDS, Run, identify_run, publish_run
from wbdc.train.signals import stop_on_signal
from wbdc.train.tricks import Outcome
from wbdc.train.views import input_spec

LOG_EVERY_STEPS = 10  # steps
SCORE = {str: float}
FOLD_SHAPE = {
    "seconds": float,
    "steps": int,
    "last": dict,
    "chance": dict,
    "weights": {str: str},
    "pretrained": dict,
    "score?": SCORE,
    "official?": SCORE,
}


@dataclass(frozen=True)
class Hardware:
    """Where a stage runs. device; threads: of the CPU; save_every: steps between saved states, 0:
    at the end of each epoch.
    """

    device: torch.device
    threads: int
    save_every: int = 0
    store: str = "auto"


@dataclass(frozen=True)
class Reporter:
    """How a stage tells what it does. progress(what, done, of, note); say(sentence);
    warn(sentence), also with --json.
    """

    progress: Callable[[str, int, int, str], None] = lambda what, done, of, note: None
    say: Callable[[str], None] = lambda sentence: None
    warn: Callable[[str], None] = lambda sentence: None


def open_stage(
    work: Path,
    stage: str,
    kit: Kit,
    prepared: PreparedData,
    *,
    seed: int = 0,
    without: str | None = None,
    source: Run | None = None,
) -> Run:
    """Return the run that a stage of a kit on a dataset is; its first fold makes it on disk."""
    if without not in (None, "text", "frames"):
        raise UsageFault(f"--without takes text or frames, not {without!r}")
    check_contest(kit, prepared)
    _check_labels(stage, kit, prepared)
    name, facts = identify_run(
        stage, kit, prepared, seed=seed, without=without, source=source.name if source else None
    )
    return Run(work / "runs" / name, facts)


def _check_labels(stage: str, kit: Kit, prepared: PreparedData) -> None:
    """Refuse an objective that learns from labels where no split that is read has any."""
    if stage == "train" or prepared.facts.labeled_split in (
        kit.stage(stage).splits or [prepared.facts.labeled_split]
    ):
        return
    for table in kit.stage(stage).objective:
        if plug.find_plug(objective_plugs, table["use"], kit.folder).needs_labels:
            raise UsageFault(
                f"objective {table['use']!r} needs labels, and no split of pretrain.splits has any; "
                f"add {prepared.facts.labeled_split!r} to the splits, or leave the objective out"
            )


def run_fold(
    run: Run,
    fold: str,
    kit: Kit,
    prepared: PreparedData,
    machine: Hardware,
    source: Run | None,
    telling: Reporter,
) -> dict:
    """Train one fold of a run (or "all": every row, no judging) and return its facts; at once when
    it is finished.

    Goes on from the last saved state, to the same bits. Raises Stopped after Ctrl-C, FolderInUse,
    Diverged.
    """
    folder = run.fold(fold)
    if sealed_facts(folder) is not None:
        return verify_seal(folder, shape=FOLD_SHAPE)
    with lock_folder(folder), _removed_if_empty(run, folder):
        stage, made = (
            kit.stage(run.facts.stage),
            build_initial_model(kit, prepared, run.facts.seed),
        )
        publish_run(run)
        if source:
            made.weights["start"] = start_from(made.model, source.fold(ALL_FOLDS))
        for part, said in made.weights.items():
            telling.say(f"weights of {part}: {said}")
        rows = _rows(run, stage, prepared, made, machine, telling, kit)
        folds = prepared.read_folds() if run.facts.stage == "train" else np.full(len(rows.ids), -1)
        learned = (
            np.flatnonzero(folds != int(fold)) if fold != ALL_FOLDS else np.arange(len(rows.ids))
        )
        facts = _train(
            run, folder, stage, made, rows, learned, machine, telling, kit, prepared.contest
        )
        held = np.flatnonzero(folds == int(fold)) if fold != ALL_FOLDS else np.array([], int)
        if len(held):
            facts |= predict_held_out(
                run, folder, fold, kit, prepared.contest, made, rows, held, machine.device
            )
        facts["command"] = train_command(run, fold, kit, machine, bool(made.pretrained))
        seal_folder(
            folder,
            facts,
            [
                p
                for p in sorted(folder.iterdir())
                if p.suffix in (".safetensors", ".json", ".parquet", ".py")
                and not p.name.startswith("state")
            ],
        )
        publish_run(run)  # again: a sweep removes run.json from a run without finished folds
        state.discard_state(folder)
    return sealed_facts(folder)


@contextmanager
def _removed_if_empty(run: Run, folder: Path) -> Iterator[None]:
    """When the block fails before anything was trained, leave no folder of the fold, and none of a
    run without folds.
    """
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty, or somebody else's by now
            remove_if_empty(folder)
            remove_empty_run(run.folder)
        raise


def train_command(run: Run, fold: str, kit: Kit, machine: Hardware, is_pretrained: bool) -> str:
    """Return the command that makes a fold again, to the same bits on this machine; it lacks
    --work, which may move.
    """
    facts = run.facts
    words = ["wbdc", facts.stage, *(kit.options or ("--kit", kit.name))]
    if facts.stage == "train":
        words += ["--fold", fold, "--from", facts.source or "none"]
        words += ["--without", facts.without] if facts.without else []
    words += ["--seed", str(facts.seed)] if facts.seed else []
    words += ["--prepared", facts.data, "--threads", str(machine.threads)]
    words += ["--device", str(machine.device)] if machine.device != find_device("auto") else []
    if is_pretrained and (weights := os.environ.get("WBDC_WEIGHTS")):
        words += ["--weights", os.path.abspath(weights)]
    return shlex.join(words)


def _rows(
    run: Run,
    stage: Stage,
    prepared: PreparedData,
    made: InitialModel,
    machine: Hardware,
    telling: Reporter,
    kit: Kit,
) -> Dataset:
    facts = prepared.facts
    splits = (
        [facts.labeled_split]
        if run.facts.stage == "train"
        else stage.splits or [facts.labeled_split]
    )
    for split in splits:
        if split not in facts.video_counts or split == facts.test_split:
            raise UsageFault(
                f"pretrain.splits names {split!r}; the data has {', '.join(sorted(facts.video_counts))}, and the test split is never trained on"
            )
    code = {c: i for i, c in enumerate(facts.classes)}
    reading, tell = (
        input_spec(stage, made, machine.device, kit),
        lambda what, done, of: telling.progress(what, done, of, ""),
    )
    views = [
        open_view(prepared, reading, s, store=machine.store, threads=machine.threads, progress=tell)
        for s in splits
    ]
    ids, labels, places = [], [], []
    for number, split in enumerate(splits):
        table = prepared.read_split(split, ["id", "label"])
        ids += table["id"].to_list()
        labels += [code.get(label, -1) for label in table["label"].to_list()]
        places += [(number, row) for row in range(len(table))]
    return Dataset(ids, np.array(labels), views, np.array(places), run.facts.without)


def _train(
    run: Run,
    folder: Path,
    stage: Stage,
    made: InitialModel,
    rows: Dataset,
    learned: np.ndarray,
    machine: Hardware,
    telling: Reporter,
    kit: Kit,
    contest: Competition,
) -> dict:
    """Fit the model and save its averaged weights; leave them in the model."""
    seed, device, precision = (
        run.facts.seed,
        machine.device,
        find_precision(stage.precision, machine.device),
    )
    each = max(1, len(learned) // stage.batch)
    steps = (
        each * stage.epochs // stage.accumulate
    )  # the real number of steps: the schedule ends where the training does
    if not steps:
        made_of = f"{len(learned)} videos make {each * stage.epochs} batches of {stage.batch}"
        raise UsageFault(
            f"{made_of}, too few for one step of {stage.accumulate}; lower batch or accumulate"
        )
    torch.manual_seed(seed)  # new heads are a function of the seed
    model = made.model.to(device)
    objectives = nn.ModuleList(
        plug.build_plug(objective_plugs, t, model, kit_folder=kit.folder) for t in stage.objective
    ).to(device)
    tricks = [
        plug.build_plug(trick_plugs, t, model, kit_folder=kit.folder) for t in stage.trick or []
    ]
    dealt = parameter_groups(model, objectives, stage.rate)
    for part, named in dealt.items():
        telling.say(
            f"trains {part}: {len(named)} weights, {sum(p.numel() for _, p in named):,} numbers, rate {stage.rate[part]:g}"
        )
    optimizer = build_adamw(dealt, stage.rate, stage.decay)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    learning = state.TrainingState(model, objectives, optimizer, tricks, scaler)
    start, skipped = state.restore_state(folder, learning, telling.warn)
    if start:
        telling.say(f"goes on after step {start} of {steps}")
    save_every, began, last, logs = (
        machine.save_every or max(1, each // stage.accumulate),
        time.monotonic(),
        {},
        True,
    )
    batches = islice(
        rows.training(learned, stage.batch, seed, stage.epochs, start * stage.accumulate),
        (steps - start) * stage.accumulate,
    )
    with stop_on_signal() as stopped:

        def skip(step: int, ids: Sequence[str]) -> None:
            nonlocal skipped
            skipped += 1
            telling.say(
                f"step {step} is skipped: the loss of videos {', '.join(ids[:5])} is not finite; {skipped} skipped so far"
            )

        def cut(step: int, parts: int) -> None:
            telling.say(
                f"memory ran out at step {step}: each batch is computed in {parts} parts from here on; a run that goes on starts with whole batches"
            )

        def after(step: int, outcome: Outcome) -> None:
            nonlocal logs
            if step % LOG_EVERY_STEPS == 0 or step == steps:
                last.update(
                    {
                        name: round(float(loss.detach()), 5)
                        for name, loss in outcome.parts.items()
                        if loss.isfinite()
                    }
                )
                telling.progress(
                    f"{run.facts.stage} {folder.name}",
                    step,
                    steps,
                    "  ".join(f"{name} {value:.3f}" for name, value in last.items()),
                )
                logs = logs and _log(
                    folder / "metrics.jsonl", {"step": step, "of": steps, **last}, telling
                )
            if stopped() or (step % save_every == 0 and step < steps):
                state.save_state(folder, step, learning, skipped)
            if stopped() and step < steps:
                raise Stopped(
                    f"stopped after step {step} of {steps}; the same command goes on from there"
                )

        fit(
            model,
            objectives,
            batches,
            optimizer,
            tricks,
            device=device,
            precision=precision,
            scaler=scaler,
            accumulate=stage.accumulate,
            clip=stage.clip,
            seed=seed,
            start=start,
            before_step=lambda step: set_rates(
                optimizer, cosine_schedule(step, steps, stage.warmup)
            ),
            after_step=after,
            on_skip=skip,
            on_cut=cut,
        )
    export_fold(folder, made, run, kit, contest, tricks)
    said = {part: [name for name, _ in named] for part, named in dealt.items()}
    return {
        "steps": steps,
        "skipped": skipped,
        "seconds": round(time.monotonic() - began, 1),
        "device": str(device),
        "threads": machine.threads,
        "precision": precision_name(precision),
        "weights": made.weights,
        "pretrained": made.pretrained,
        "trained": said,
        "last": last,
        "chance": {name: o.chance for name, o in zip(plug.distinct_names(objectives), objectives)},
    }


def _log(path: Path, entry: dict, telling: Reporter) -> bool:
    """Add a line to a log. When that fails say so, and return False: the training goes on without."""
    try:
        append_line(path, json.dumps(entry))
    except OSError as error:
        telling.say(f"{path} is no longer written: {error.strerror}; the training goes on")
        return False
    return True
