"""`python -m wbdc` is `wbdc`. A stop signal ends it with exit code 11 from the first moment, also
while it imports.
"""

import os
import signal
from types import FrameType

from wbdc import STOPPED_CODE, STOPPED_MESSAGE
from wbdc.core.process_tree import end_with_parent


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """End the process without cleaning up: no work has started."""
    os.write(2, f"{STOPPED_MESSAGE}\n".encode())
    os._exit(STOPPED_CODE)


def limit_spinning() -> None:
    """Let waiting OpenMP threads sleep early when other processes use the CPUs."""
    is_configured = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if not is_configured and os.getloadavg()[0] > os.cpu_count() / 2:
        os.environ["GOMP_SPINCOUNT"] = "1000"


def quiet_torch() -> None:
    """Hide torch's warnings about performance, which each rank of a training would print."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def run() -> None:
    """Handle stop signals, then import and run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, exit_at_once)
    end_with_parent()
    limit_spinning()  # before torch is imported
    quiet_torch()

    from wbdc.cli import main

    main()


if __name__ == "__main__":
    run()
