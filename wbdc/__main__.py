"""`python -m wbdc` is `wbdc`. A stop signal ends it with exit code 11 from the first moment, while
it still imports.
"""

import os
import signal
from types import FrameType

# as in wbdc.cli, which is not imported yet
STOPPED = "stopped; the same command goes on from what is finished"
STOPPED_CODE = 11  # wbdc.core.errors.Stopped


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """End the process: nothing has started that would have to be cleaned up."""
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(STOPPED_CODE)


def limit_spinning() -> None:
    """Let OpenMP threads sleep soon while they wait, when other processes use the CPUs."""
    chosen = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if not chosen and os.getloadavg()[0] > os.cpu_count() / 2:
        os.environ["GOMP_SPINCOUNT"] = "1000"


def run() -> None:
    """Handle stop signals, then import and run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, exit_at_once)
    limit_spinning()  # before torch is imported

    from wbdc.cli import main

    main()


if __name__ == "__main__":
    run()
