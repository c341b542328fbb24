"""Memory that was freed is not asked for again."""

import subprocess
import sys

import pytest

from wbdc.core import freed_memory
from wbdc.core.freed_memory import keep_freed_memory

PROGRAM = """
import resource, sys
from wbdc.core.freed_memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print(-1)
    raise SystemExit
def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"x" * 2**26
before = page_faults()
for _ in range(5):
    b"x" * 2**26
print(page_faults() - before)
"""


def count_page_faults(option: str) -> int:
    command = [sys.executable, "-c", PROGRAM, option]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_freed_memory_is_used_again_without_page_faults():
    kept = count_page_faults("keep")
    if kept < 0:
        pytest.skip("this C library has no mallopt")
    assert kept < 200 < 5000 < count_page_faults("default")


def test_a_c_library_without_the_setting_is_reported(monkeypatch):
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
