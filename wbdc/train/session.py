"""A training session: which run, which folds, from which weights; one fold after the other, or
several at the same time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wbdc import __version__
from wbdc.core.cpu_quota import available_cpus
from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.core.freed_memory import keep_freed_memory
from wbdc.core.planned_device import plan_device
from wbdc.core.ranks import Ranks, join_training, leave_ranks, rank_and_size
from wbdc.core.weights import WEIGHTS_VARIABLE
from wbdc.prepare.dataset import PreparedData, open_prepared
from wbdc.train.estimator_plan import EstimatorPlan, plan_estimator
from wbdc.train.external_loggers import check_loggers
from wbdc.train.hardware import Hardware
from wbdc.train.jobs import plan_jobs
from wbdc.train.kit import Kit
from wbdc.train.pseudo.named_sets import identify_pretraining
from wbdc.train.reporter import Reporter
from wbdc.train.runs import (
    ALL_FOLDS,
    Run,
    finished_folds,
    open_run,
)
from wbdc.train.stage_plan import StagePlan, check_fold, plan_stage
from wbdc.train.unused_pretraining import explain_unused_pretraining

if TYPE_CHECKING:
    import torch

    from wbdc.core.planned_device import CpuDevice

MAX_LISTED_FOLDS = 5
MAX_FOLD_NAME_CHARS = 20


@dataclass(frozen=True)
class Session:
    """A resolved training command.

    folds: the requested ones, in order. note: why a pretrained run that exists is not used.
    jobs: folds that are trained at the same time.
    """

    plan: StagePlan | EstimatorPlan
    folds: list[str]
    hardware: Hardware
    note: str = ""
    jobs: int = 1

    @property
    def run(self) -> Run:
        """The run that the session trains."""
        return self.plan.run

    def train(self, reporter: Reporter) -> dict[str, dict]:
        """Train every requested fold that is not finished; return the facts of all requested folds.

        Raises IntegrityFault when the ranks have different data, kits or options, and what
        `run_fold` and `train_folds` raise.
        """
        self.hardware.ranks.check_equal(self._identity())
        if self.note:
            reporter.log(self.note)
        if self.plan.source:
            reporter.log(f"starts from the pretrained run {self.plan.source.name}")
        if self.jobs > 1:
            from wbdc.train.parallel_folds import train_folds

            return train_folds(self.plan, self.folds, self.hardware, self.jobs, reporter)

        from wbdc.train.run_fold import run_fold

        if self.hardware.device.type == "cpu":
            keep_freed_memory()
        return {fold: run_fold(self.plan, fold, self.hardware, reporter) for fold in self.folds}

    def _identity(self) -> dict[str, str]:
        """Return what must be the same on all ranks."""
        import torch

        from wbdc.core.device import find_training_precision, precision_name

        device = self.hardware.device
        is_network = isinstance(self.plan, StagePlan)
        precision = self.plan.stage.precision if is_network else "fp32"
        return {
            "data": self.plan.prepared.hash,
            "run": self.run.name,  # hashes the kit, the seed and all files that the kit names
            "folds": ",".join(self.folds),
            "save_every": str(self.hardware.save_every),
            "device": device.type,
            "precision": precision_name(find_training_precision(precision, device)),
            "wbdc": __version__,
            "torch": torch.__version__,
        }


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started, for the length of a block; a single one otherwise.

    device: its name. Raises UsageFault for the name of one GPU, EnvironmentFault when there are
    fewer GPUs than processes on this machine, and Stopped when another process ends.
    """
    _, size = rank_and_size()
    if size == 1:
        yield Ranks()
        return

    from wbdc.core.device import find_device

    _check_devices(device)
    ranks = join_training(find_device(device).type)
    try:
        with ranks.ending_together():
            yield ranks
    finally:
        leave_ranks()


def _check_devices(device: str) -> None:
    """Refuse devices that several ranks cannot share, and select the GPU of this rank."""
    if device.startswith("cuda"):
        raise UsageFault(
            f"--device {device} names one GPU for several processes; omit --device, so that each "
            "process takes a GPU of its own, or use --device cpu"
        )
    import torch

    from wbdc.core.device import find_device

    if device != "auto" or not torch.cuda.is_available():
        return
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    gpus = torch.cuda.device_count()
    if local_size > gpus:
        raise EnvironmentFault(
            f"{local_size} processes were started, but torch finds {gpus} GPUs on this "
            "machine; lower --nproc-per-node, or use --device cpu"
        )
    torch.cuda.set_device(find_device(device))


def open_session(
    stage: str,
    kit: Kit,
    work: Path,
    *,
    fold: str = ALL_FOLDS,
    seed: int = 0,
    without: str | None = None,
    source: str = "auto",
    prepared: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    jobs: int | None = 1,
    save_every: int = 0,
    store: str = "auto",
    loggers: tuple[str, ...] = (),
    ranks: Ranks | None = None,
    computes: bool = True,
) -> Session:
    """Resolve a training command before anything is computed.

    stage: "pretrain" or "train". source: name of the pretrained run to start from, "auto" or
    "none". prepared: hash of the prepared data. threads: None for all, shared with the other ranks
    of this machine. jobs: folds that are trained at the same time, in processes of their own; None
    for the default of `plan_jobs`. loggers: names, or paths of files. ranks: of `joined_ranks`.
    computes: False for a session that is described and not trained, which is resolved without
    torch on a machine without GPUs. Raises UsageFault, EnvironmentFault.
    """
    check_loggers(loggers)
    fits_estimator = kit.has_estimator and stage == "train"
    if not fits_estimator:
        kit.stage(stage)  # refuses a kit without this stage
    data = open_prepared(work, prepared)
    ranks = ranks or Ranks()
    chosen_device = _choose_device(device, computes)
    folds = parse_folds(fold, data.facts.fold_count)
    is_tiny = "--tiny" in kit.options
    job_plan = plan_jobs(jobs, threads, folds, chosen_device, ranks, is_tiny=is_tiny)
    fold_threads = job_plan.threads
    if job_plan.jobs == 1:  # where other processes train, the threads of this one stay as they are
        fold_threads = _choose_threads(fold_threads, computes)
    hardware = Hardware(chosen_device, fold_threads, save_every, store, loggers, ranks)
    if fits_estimator:
        plan = plan_estimator(
            work, kit, data, seed=seed, without=without, source=source, loggers=loggers
        )
        return Session(plan, folds, hardware, jobs=job_plan.jobs)

    source_run = _find_source(kit, data, work, seed, source) if stage == "train" else None
    plan = plan_stage(work, stage, kit, data, seed=seed, without=without, source=source_run)
    for name in folds:
        check_fold(plan, name)

    note = ""
    if stage == "train" and source == "auto" and source_run is None:
        options = {
            "fold": fold,
            "without": without,
            "seed": seed or None,
            "prepared": prepared,
            "work": None if str(work) == "work" else work,
            "device": None if device == "auto" else device,
            "threads": threads,
            "jobs": jobs,
            "store": None if store == "auto" else store,
            "weights": os.environ.get(WEIGHTS_VARIABLE),
        }
        note = explain_unused_pretraining(kit, data, work, seed, options)
    return Session(plan, folds, hardware, note, job_plan.jobs)


def _choose_device(name: str, computes: bool) -> "torch.device | CpuDevice":
    """Find a device by its name, for a session that computes on it or is only described."""
    if not computes:
        return plan_device(name)
    from wbdc.core.device import find_device

    return find_device(name)


def _choose_threads(count: int | None, computes: bool) -> int:
    """Return the number of CPU threads, and set it for a session that computes.

    count: None for a share of the CPUs that is as large for each rank of this machine.
    """
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    count = count or max(1, available_cpus() // local_size)
    if computes:
        from wbdc.core.device import use_threads

        use_threads(count)
    return count


def parse_folds(text: str, count: int) -> list[str]:
    """Parse --fold: "0", "0,2", "each" (0..count-1) or "all" (every row). Raises UsageFault."""
    if text == "each":
        return [str(i) for i in range(count)]

    known = [ALL_FOLDS, *map(str, range(count))]
    folds = [word.strip() for word in text.split(",")]
    folds = [f if f in known else f.lstrip("0") or f[:1] for f in folds]  # 00 is 0, 01 is 1
    if unknown := [f for f in folds if f not in known]:
        listed = ", ".join(
            f if len(f) <= MAX_FOLD_NAME_CHARS else f"{f[:MAX_FOLD_NAME_CHARS]}…"
            for f in unknown[:MAX_LISTED_FOLDS]
        )
        raise UsageFault(
            f"no fold {listed}; the data has folds 0 to {count - 1}; "
            "--fold also takes each (every fold) and all (every row)"
        )
    return list(dict.fromkeys(folds))


def _find_source(
    kit: Kit, prepared: PreparedData, work: Path, seed: int, source: str
) -> Run | None:
    """Find the pretrained run to start from; "auto" is that of this kit, data and seed, if it is
    finished.
    """
    if source == "none":
        return None

    if source != "auto":
        run = open_run(work, source, "pretrain")
        if not run.facts.per_fold and ALL_FOLDS not in run.folds():
            raise UsageFault(
                f"pretraining {source} is not finished; run `wbdc pretrain --kit {run.facts.kit}` "
                "again to resume it"
            )
        return run

    if "pretrain" not in kit.tables:
        return None
    name, _ = identify_pretraining(work, kit, prepared, seed)
    finished = finished_folds(work / "runs" / name)
    run = open_run(work, name, "pretrain") if finished else None
    return run if run and (run.facts.per_fold or ALL_FOLDS in finished) else None
