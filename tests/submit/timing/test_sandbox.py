"""A failing packed folder is explained by its exit code and the last line of its output."""

import pytest

from wbdc.core.errors import (
    DataFault,
    EnvironmentFault,
    IntegrityFault,
    OutOfResources,
    UsageFault,
)
from wbdc.submit.timing.sandbox import SandboxRun, failure_message

MISSING_MODULE = "Traceback\nModuleNotFoundError: No module named 'timm'\n"


@pytest.mark.parametrize(
    ("code", "stderr", "error", "part"),
    [
        (3, "2 models\nerror: annotations/test.json is missing\n", DataFault, "is missing"),
        (1, MISSING_MODULE, EnvironmentFault, "timm"),
        (1, "Traceback\nZeroDivisionError: oh\n", IntegrityFault, "exit code 1"),
        (-9, "", OutOfResources, "signal 9"),
        (2, "main.py: error: unrecognized arguments: --x", UsageFault, "unrecognized"),
    ],
)
def test_failure_message_names_the_last_line(code, stderr, error, part):
    message = failure_message(SandboxRun(code, 1.0, stderr))
    assert type(message) is error
    assert part in str(message)
