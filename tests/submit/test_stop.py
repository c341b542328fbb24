"""SIGTERM while a packed folder predicts: no process and no partial result remains."""

import shutil
import sys
from pathlib import Path

import pytest
from small import stop_midway

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.submit.check.verify import verify_package

VIDEOS = 400  # enough that a signal after the models are loaded comes before the result


@pytest.fixture(scope="module")
def long(data, tmp_path_factory) -> Path:
    into = tmp_path_factory.mktemp("long") / "data"
    WeChat2022().repeat_videos(data, into, "test", VIDEOS)
    return into


@pytest.mark.slow
@pytest.mark.parametrize(("script", "earlier"), [("run.sh", None), ("inference.sh", "1,0000\n")])
def test_fault_32_sigterm_leaves_no_half_result(script, earlier, package, long, tmp_path):
    """Under a deadline (inference.sh) the process exits without Python's clean-up. The folder stays
    as it was, so that it predicts as before.
    """
    folder, out = shutil.copytree(package, tmp_path / "package"), tmp_path / "out/result.csv"
    out.parent.mkdir()
    if earlier:
        out.write_text(earlier)
    stderr = tmp_path / "stopped/stderr"
    code, stderr_text = stop_midway(
        ["sh", folder / script, "--data", long, "--out", out, "--device", "cpu", "--threads", 1],
        tmp_path / "stopped",
        lambda: "2 models in" in stderr.read_text(),
        PYTHON=sys.executable,
        DEADLINE="3000",
    )

    assert (code, stderr_text.splitlines()[-1]) == (
        11,
        "error: stopped before the result was written",
    )
    assert "Traceback" not in stderr_text
    assert [(p.name, p.read_text()) for p in out.parent.iterdir()] == (
        [("result.csv", earlier)] if earlier else []
    )
    assert list_files(folder) == list_files(package)
    verify_package(folder)


def list_files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}
