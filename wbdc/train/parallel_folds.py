"""Folds that are trained side by side: each by a command of its own, in a process of its own.

A process has its own threads, saved state, lock and safe points, so a fold ends with the same bits
as when the folds are trained one after the other with the same number of threads.
"""

import shlex
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait

from wbdc.core.errors import Stopped, WbdcError
from wbdc.core.files import sealed_facts
from wbdc.core.integrity import verify_seal
from wbdc.train.estimator_plan import EstimatorPlan
from wbdc.train.fold_process import FoldProcess
from wbdc.train.hardware import Hardware
from wbdc.train.reporter import Reporter
from wbdc.train.run_fold import FOLD_SHAPE, report_reuse, train_command
from wbdc.train.signals import stop_on_signal
from wbdc.train.stage_plan import StagePlan

OUTPUT_POLL_SECONDS = 0.05  # between looks at stop requests and ended processes


def fold_command(plan: StagePlan | EstimatorPlan, fold: str, hardware: Hardware) -> list[str]:
    """Return the words of the command that trains one fold as this process would."""
    words = shlex.split(train_command(plan, fold, hardware, uses_pretrained=False))
    options = {
        "--work": plan.run.folder.parents[1],
        "--save-every": hardware.save_every,
        "--store": hardware.store,
    }
    for option, value in options.items():
        words += [option, str(value)]
    for name in hardware.loggers:
        words += ["--logger", name]
    return [sys.executable, "-m", *words]


def train_folds(
    plan: StagePlan | EstimatorPlan,
    folds: Sequence[str],
    hardware: Hardware,
    jobs: int,
    reporter: Reporter,
) -> dict[str, dict]:
    """Train every fold that is not finished, at most `jobs` at the same time; return the facts of
    all folds. Raises what `run_fold_commands` raises.
    """
    folders = {fold: plan.run.fold(fold) for fold in folds}
    pending = [fold for fold, folder in folders.items() if sealed_facts(folder) is None]
    for fold in folds:
        if fold not in pending:
            report_reuse(plan.run, fold, reporter)
    if pending:
        count = min(jobs, len(pending))
        threads = "1 thread" if hardware.threads == 1 else f"{hardware.threads} threads"
        reporter.log(
            f"trains {'fold' if len(pending) == 1 else 'folds'} {', '.join(pending)} in processes "
            f"of {threads}, {count} at the same time; --jobs 1 trains them in turn"
        )
        commands = {fold: fold_command(plan, fold, hardware) for fold in pending}
        run_fold_commands(commands, count, reporter)
    return {fold: verify_seal(folder, shape=FOLD_SHAPE) for fold, folder in folders.items()}


def run_fold_commands(commands: dict[str, Sequence[str]], jobs: int, reporter: Reporter) -> None:
    """Run the commands that train folds, at most `jobs` at the same time.

    commands: of each fold, by its name; they write progress records. A stop signal is passed on
    once, so that every fold stops at its next safe point; the second one kills all processes, and
    so does the end of this process. A fold that fails does not stop the others.

    Raises Stopped after a stop signal, and else the error of the first fold that failed, when all
    others have ended.
    """
    pending = list(commands)
    running: list[FoldProcess] = []
    failures: dict[str, WbdcError] = {}
    is_passed_on = False
    with stop_on_signal() as is_stopping:
        try:
            while running or (pending and not is_stopping()):
                while pending and len(running) < jobs and not is_stopping():
                    fold = pending.pop(0)
                    running.append(FoldProcess(fold, commands[fold], reporter))
                if is_stopping() and not is_passed_on:
                    is_passed_on = True
                    for process in running:
                        process.request_stop()
                running = _wait_for_output(running, failures)
        finally:
            for process in running:
                process.kill()

    was_stopped = any(isinstance(error, Stopped) for error in failures.values())
    if is_stopping() and (pending or was_stopped):
        raise Stopped("stopped; the same command resumes every fold where it stopped")
    if failures:
        first = failures[min(failures, key=list(commands).index)]
        raise type(first)(f"{len(failures)} of {len(commands)} folds failed: {first}")


def _wait_for_output(
    running: Sequence[FoldProcess], failures: dict[str, WbdcError]
) -> list[FoldProcess]:
    """Report the output of processes and return those that still run; errors go to `failures`."""
    wait(running, OUTPUT_POLL_SECONDS)
    remaining = []
    for process in running:
        has_ended = process.has_ended  # before its last output is read
        if process.read() and not has_ended:
            remaining.append(process)
        elif error := process.finish():
            failures[process.fold] = error
    return remaining
