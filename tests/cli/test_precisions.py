"""Runs that serve in different precisions: an ensemble needs one, and predicts again in it."""

import pytest
import toys

pytestmark = pytest.mark.slow


@pytest.fixture
def two_runs(fresh, kit):
    """Return a work folder with a run in float32 and one in bfloat16."""
    common = ("train", "--kit", kit, "--work", fresh, "--threads", 1, "--fold", "0,1")
    runs = [
        toys.run_json(*common, "--set", f"train.epochs={n}", "--set", f"serve.precision='{name}'")
        for n, name in ((1, "fp32"), (2, "bf16"))
    ]
    return fresh, [run["run"] for run in runs]


def test_runs_of_different_precisions_need_one_precision(two_runs):
    work, runs = two_runs
    words = ["ensemble", "--work", work, "--threads", 1, "--draws", 100]
    words += [word for run in runs for word in ("--run", run)]
    result = toys.wbdc(*words)
    assert result.exit_code == 2
    assert (
        "serve in different precisions (bf16, fp32); choose one with --precision" in result.stderr
    )

    report = toys.run_json(*words, "--precision", "fp32")
    assert set(report["weights"]) == set(runs)
    folders = [path.parents[1].name for path in work.glob("runs/*/*/precision=fp32")]
    assert folders == [runs[1]], "only the run that was evaluated in another precision"
