"""The `wbdc` command. One file per command; heavy imports belong inside each command's function."""

import pkgutil
import sys
from importlib import import_module

import click

from wbdc import STOPPED_MESSAGE, __version__
from wbdc.core.errors import OutOfResources, Stopped, WbdcError, suggest_name
from wbdc.core.files import explain_os_error
from wbdc.core.memory_limit import (
    confirm_exit,
    continue_in_child,
    exit_out_of_memory,
    has_memory_limit,
)
from wbdc.core.out_of_memory import is_memory_short, is_out_of_memory
from wbdc.core.stop_signals import interruptible

ORDER = (
    "demo",
    "init",
    "prepare",
    "kits",
    "recipe",
    "weights",
    "pretrain",
    "train",
    "sweep",
    "runs",
    "oof",
    "compare",
    "ensemble",
    "report",
    "pseudo",
    "distill",
    "predict",
    "submit",
    "verify",
    "diff",
    "doctor",
    "bench",
    "completion",
)
NOT_COMMANDS = {
    "console",
    "ensemble_build",
    "ensemble_report",
    "name_completion",
    "shared_options",
    "training",
}  # files of this folder that define no command


class Commands(click.Group):
    """Finds commands by the names of their files, and reports errors as one sentence and an exit
    code.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = {module.name for module in pkgutil.iter_modules(__path__)} - NOT_COMMANDS
        return [name for name in ORDER if name in names] + sorted(names - set(ORDER))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        return getattr(import_module(f"wbdc.cli.{name}"), name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        if args and args[0] not in self.list_commands(ctx):
            ctx.fail(f"no command {args[0]!r}{suggest_name(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        with interruptible() as stop_requested:
            try:
                return self._invoke_within_memory_limit(ctx)
            except click.exceptions.Exit:
                raise
            except (Exception, KeyboardInterrupt) as raised:
                error = explain_error(raised, stop_requested())
                if error is None:
                    raise

        if isinstance(error, OutOfResources) and has_memory_limit():
            exit_out_of_memory(f"{error}\n", error.code)
        try:
            from wbdc.cli.console import print_error

            if not error.is_echo:
                print_error(str(error))
        except MemoryError:
            exit_out_of_memory(f"{error}\n", error.code)
        return ctx.exit(error.code)

    def _invoke_within_memory_limit(self, ctx: click.Context) -> object:
        """Run the command; under `ulimit -v`, in a child process."""
        code = continue_in_child() if has_memory_limit() else None
        if code is not None:
            ctx.exit(code)
        try:
            return super().invoke(ctx)
        finally:
            confirm_exit()


def explain_error(raised: BaseException, stop_requested: bool) -> WbdcError | None:
    """Return the error that a user can act on; None for a bug.

    stop_requested: a stop signal arrived; whatever failed afterwards is a consequence.
    """
    if isinstance(raised, KeyboardInterrupt):
        return Stopped(STOPPED_MESSAGE)
    if stop_requested and not isinstance(raised, Stopped):
        return Stopped(STOPPED_MESSAGE)
    if is_out_of_memory(raised):
        return OutOfResources("memory ran out; use smaller batches, or fewer --threads")
    if is_caused_by_limit(raised):
        return OutOfResources(
            f"memory ran out under the limit of `ulimit -v` ({type(raised).__name__}); raise the "
            "limit"
        )
    if isinstance(raised, WbdcError):
        return raised
    return explain_os_error(raised) if isinstance(raised, OSError) else None


def is_caused_by_limit(error: BaseException) -> bool:
    """Return whether a failure that looks like a bug is caused by too little memory, for example a
    library that was imported in part.
    """
    return has_memory_limit() and not isinstance(error, (WbdcError, OSError)) and is_memory_short()


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__)
def main() -> None:
    """From the raw data of a short-video competition to a verified submission.

    \b
    Try it on synthetic data:   wbdc demo
    Use your own data:          wbdc prepare --data DIR
                                wbdc train --kit dual_stream --fold each
                                wbdc ensemble
                                wbdc submit --check-latency

    \b
    Exit codes:
      0   success
      1   bug in wbdc
      2   wrong command, option or kit
      3   invalid data
      4   file missing, changed or damaged
      5   over the time or memory limit
      6   time check inconclusive
      7   required package, model file or device is missing
      8   folder in use by another command
      9   out of memory or disk space
      10  training diverged
      11  stopped; the same command continues
      12  invalid result file
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
