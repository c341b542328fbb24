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
    "prepare",
    "kits",
    "pretrain",
    "train",
    "compare",
    "ensemble",
    "predict",
    "submit",
    "verify",
    "diff",
    "doctor",
)


class Commands(click.Group):
    """Finds commands by the names of their files, and turns errors into one sentence and an exit
    code.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        found = {m.name for m in pkgutil.iter_modules(__path__)} - {"console"}
        return [name for name in ORDER if name in found] + sorted(found - set(ORDER))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return (
            getattr(import_module(f"wbdc.cli.{name}"), name)
            if name in self.list_commands(ctx)
            else None
        )

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        if args and args[0] not in self.list_commands(ctx):
            ctx.fail(f"no command {args[0]!r}{suggest_name(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        with interruptible() as stopped:
            try:
                code = continue_in_child() if has_memory_limit() else None
                if code is not None:
                    ctx.exit(code)
                try:
                    return super().invoke(ctx)
                finally:
                    confirm_exit()
            except click.exceptions.Exit:
                raise
            except (
                Exception,
                KeyboardInterrupt,
            ) as raised:  # a request to stop may surface as another failure
                if isinstance(raised, KeyboardInterrupt) or (
                    stopped() and not isinstance(raised, Stopped)
                ):
                    error: WbdcError = Stopped(STOPPED_MESSAGE)
                elif is_out_of_memory(raised):
                    error = OutOfResources(
                        "memory ran out; take smaller batches, or fewer --threads"
                    )
                elif is_caused_by_limit(raised):
                    error = OutOfResources(
                        f"memory ran out under the limit of `ulimit -v` ({type(raised).__name__}); raise the limit"
                    )
                elif isinstance(raised, WbdcError):
                    error = raised
                elif isinstance(raised, OSError) and (explained := explain_os_error(raised)):
                    error = explained
                else:
                    raise
        if isinstance(error, OutOfResources) and has_memory_limit():
            exit_out_of_memory(f"{error}\n", error.code)
        try:
            from wbdc.cli.console import print_error

            print_error(str(error))
        except MemoryError:
            exit_out_of_memory(f"{error}\n", error.code)
        ctx.exit(error.code)


def is_caused_by_limit(error: BaseException) -> bool:
    """Tell whether a failure that looks like a bug comes from too little memory: a half imported
    library, for example.
    """
    return has_memory_limit() and not isinstance(error, (WbdcError, OSError)) and is_memory_short()


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__)
def main() -> None:
    """From raw data of a short-video competition to a submission that is sure to run.

    \b
    A first look, on made-up data:   wbdc demo
    With your data:                  wbdc prepare --data DIR
                                     wbdc train --kit dual_stream --fold each
                                     wbdc ensemble
                                     wbdc submit --check-latency

    Exit codes: 0 done, 2 usage, 3 data invalid, 4 integrity, 5 over the budget, 6 inconclusive, 7
    environment lacks something,
    8 folder in use, 9 resources ran out, 10 diverged, 11 stopped (resumable), 12 result file
    invalid, 1 a bug.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace") if hasattr(stream, "reconfigure") else None
