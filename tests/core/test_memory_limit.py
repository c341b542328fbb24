"""A memory limit: a library that aborts at the limit gives an error message and exit 9."""

import resource
import signal
import subprocess
import time

import pytest
from small import python

COMMAND = """
import os, sys, time
import click
from wbdc.cli import main

@click.command("kits")
def command():
    {body}

type(main).get_command = lambda self, ctx, name: command
main(["kits"])
"""


def limited(body: str, **settings: object):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))

    return python(COMMAND.format(body=body), preexec_fn=limit, **settings)


LIMIT_ENDED = (
    "memory ran out: the limit of 1,099,511,627,776 bytes (ulimit -v) ended the command with "
)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (
            "os.abort()",
            9,
            LIMIT_ENDED + "signal 6",
        ),
        (
            "os.kill(os.getpid(), 11)",
            9,
            LIMIT_ENDED + "signal 11",
        ),
        (
            "os.kill(os.getpid(), 9)",
            9,
            LIMIT_ENDED + "signal 9",
        ),
        (
            # the console cannot be imported
            "sys.modules['wbdc.cli.console'] = None; raise MemoryError",
            9,
            "memory ran out; use smaller batches",
        ),
        (
            "raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')",
            9,
            "memory ran out; use smaller batches",
        ),
        (
            "raise ImportError('libtorch.so: failed to map segment from shared object')",
            9,
            "memory ran out; use smaller batches",
        ),
        (
            "import ctypes; ctypes.CDLL(None).exit(1)",
            9,
            LIMIT_ENDED + "exit code 1",
        ),
        (
            "import ctypes; ctypes.CDLL(None).exit(127)",
            9,
            LIMIT_ENDED + "exit code 127",
        ),
        ("sys.exit(os.environ['OPENBLAS_NUM_THREADS'] != '1')", 0, ""),
        ("sys.exit(1)", 1, ""),
        ("sys.exit(5)", 5, ""),
        ("pass", 0, ""),
    ],
)
def test_fault_23_a_library_that_aborts_under_a_memory_limit_is_exit_9(body, code, message):
    process = limited(body)
    assert process.returncode == code
    assert process.stderr.startswith(message)
    assert len(process.stderr.splitlines()) == bool(message)


def test_a_bug_under_a_memory_limit_stays_a_bug():
    process = limited("raise KeyError('a bug')")
    assert process.returncode == 1
    assert process.stderr.endswith("KeyError: 'a bug'\n")


def test_fault_32_a_stop_signal_reaches_a_command_under_a_memory_limit():
    body = """
    try:
        print('ready', flush=True)
        time.sleep(30)
    finally:
        os.write(2, b"cleaned up: ")
"""
    process = limited(body, start=subprocess.Popen)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    message = process.communicate(timeout=10)[1]
    assert process.returncode == 11
    assert message == "cleaned up: stopped; run the same command again to continue\n"
