"""A command that trains one fold in a process of its own, and what it reports while it runs."""

import contextlib
import os
import subprocess
from collections.abc import Sequence

from wbdc.core.errors import OutOfResources, WbdcError, error_class
from wbdc.core.process_tree import environment_of_child
from wbdc.train.progress_records import RECORD_START, RECORDS_VARIABLE, parse_record
from wbdc.train.reporter import Reporter

OUTPUT_CHUNK_BYTES = 65536


class FoldProcess:
    """A running command that trains a fold. Its records go to `reporter`, under the fold's name."""

    def __init__(self, fold: str, words: Sequence[str], reporter: Reporter):
        self.fold = fold
        self.reporter = reporter
        # in a process group of its own: Ctrl-C of a terminal reaches the first process alone, which
        # passes it on once, because a command that receives two requests ends at once
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment_of_child() | {RECORDS_VARIABLE: "1"},
            process_group=0,
        )
        os.set_blocking(self.fileno(), False)
        self._rest = b""
        self._message = ""
        self._task = ""  # whose progress is shown

    def fileno(self) -> int:
        """Return the handle of the command's output, for `multiprocessing.connection.wait`."""
        return self._process.stderr.fileno()

    def request_stop(self) -> None:
        """Ask the command to stop at its next safe point."""
        self._process.terminate()

    @property
    def has_ended(self) -> bool:
        """Whether the command has ended. Processes that it started may still hold its output."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End the command at once."""
        self._process.kill()
        self._close()

    def read(self) -> bool:
        """Report what the command has written. Returns False at the end of its output."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.fileno(), OUTPUT_CHUNK_BYTES):
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                for line in lines:
                    self._report(line.decode(errors="replace"))
            return False
        return True

    def finish(self) -> WbdcError | None:
        """Return the error of a command that has ended, after its output was read; None if it
        trained its fold.
        """
        self._report(self._rest.decode(errors="replace"))
        if self._task:
            self.reporter.progress(self._task, 0, 0, "")
        code = self._close()
        error = fold_error(self.fold, code, self._message) if code else None
        if error:
            self.reporter.warn(str(error))
        return error

    def _close(self) -> int:
        code = self._process.wait()
        self._process.stderr.close()
        return code

    def _report(self, line: str) -> None:
        record = parse_record(line)
        if record is None:
            if line.strip() and not line.startswith(RECORD_START):
                self.reporter.warn(f"fold {self.fold}: {line}")
        elif record.kind == "progress":
            self._report_progress(*record.values)
        elif record.kind == "error":
            self._message = record.values[0]
        else:
            getattr(self.reporter, record.kind)(f"fold {self.fold}: {record.values[0]}")

    def _report_progress(self, task: str, done: int, total: int, note: str) -> None:
        name = task if task.endswith(f"fold-{self.fold}") else f"fold {self.fold}, {task}"
        self._task = name if done < total else ""
        self.reporter.progress(name, done, total, note)


def fold_error(fold: str, code: int, message: str) -> WbdcError:
    """Return the error of a command that trains a fold.

    code: its exit code, negative for the signal that killed it. message: of its error, "" when it
    reported none.
    """
    if code < 0:
        return OutOfResources(
            f"signal {-code} killed the process of fold {fold}; the system does that when memory "
            "runs out. The same command resumes the fold; lower --jobs if memory is short"
        )
    if not message:
        message = f"its process ended with exit code {code}, see its output above"
    return error_class(code)(f"fold {fold}: {message}")
