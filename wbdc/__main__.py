"""`python -m wbdc` is `wbdc`. A stop signal ends it with exit code 11 from the first moment, while it still imports."""

import os
import signal
from types import FrameType

STOPPED = "stopped; the same command goes on from what is finished"  # as in wbdc.cli, which is not imported yet
STOPPED_CODE = 11  # wbdc.core.errors.Stopped


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """End the process: nothing has started that would have to be cleaned up."""
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(STOPPED_CODE)


def run() -> None:
    """Handle stop signals, then import and run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, exit_at_once)

    from wbdc.cli import main

    main()


if __name__ == "__main__":
    run()
