"""The demo: models that pass the time check, enough videos for blend weights, and its output."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import toys

from wbdc.cli.demo import (
    DEMO_CHANGES,
    DEMO_ESTIMATORS,
    DEMO_FOLD_COUNT,
    DEMO_FOLDS,
    DEMO_KITS,
    TIME_CHECK_SECONDS,
    _train,
    demo,
    print_demo,
)
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.ensemble.evaluation import evaluate_ensemble
from wbdc.prepare.demo.synthetic_contest import SPLIT_SHARES
from wbdc.submit.timing.measure import RUN_CAP_SHARE
from wbdc.submit.timing.options import COLD_STARTS
from wbdc.submit.timing.projection import ColdStart, SteadyRun, project_seconds
from wbdc.submit.timing.time_cap import TimeCap
from wbdc.train.kit import open_kit

LIMITS = WeChat2022.limits
VIDEOS = next(option.default for option in demo.params if option.name == "videos")


def project_status(models: int, videos: int, seed: int) -> str:
    """Return the status of a time check on two idle cores.

    There, 25,000 videos took 158 s with 3 models, and 287 s with 6.
    """
    video_seconds, rng = (29 + 43 * models) / 25_000, np.random.default_rng(seed)
    ends = np.minimum(np.arange(16, videos + 16, 16), videos)
    spans = np.diff(ends, prepend=0) * video_seconds * rng.normal(1, 0.15, len(ends)).clip(0.5)
    marks = [
        (int(end), 2 + float(seconds)) for end, seconds in zip(ends, spans.cumsum(), strict=True)
    ]
    return project_seconds(
        [ColdStart(5.0, 0.5, 8)] * 3,
        SteadyRun(0.01, videos, 2.0, marks),
        items=LIMITS.items,
        seconds=LIMITS.seconds,
    ).status


def test_demo_models_pass_the_time_check():
    models = len(DEMO_KITS) * len(DEMO_FOLDS.split(","))
    test_videos = int(VIDEOS * SPLIT_SHARES["test"])
    assert [project_status(models, test_videos, seed) for seed in range(30)].count("PASS") >= 29, (
        "a trend is seen in 1% of random noise"
    )
    assert [project_status(6, 120, seed) for seed in range(30)].count("PASS") < 5, (
        "six models and 120 videos were too much"
    )


def test_time_check_cap_fits_all_runs_of_the_demo():
    """Four cold starts of 8 s come first; then the sample, twice, FP32, and four runs of repeated
    videos.
    """
    cap, videos = (
        TimeCap(TIME_CHECK_SECONDS, lambda seconds, timeout: SimpleNamespace(seconds=seconds)),
        int(VIDEOS * SPLIT_SHARES["test"]),
    )
    for _ in range(COLD_STARTS):
        assert cap.allows_cold_start(8.0)
        cap.run(8.0)
    cap.run(8.0)
    for _ in range(3):
        assert cap.max_videos(RUN_CAP_SHARE, 8.0, 0.1) >= videos, (
            "a tenth of a second a video is ten times what an idle machine takes"
        )
        cap.run(8.0 + videos * 0.1)
    assert cap.max_videos(1.0, 8.0, 0.1, runs=4) >= videos


@pytest.mark.parametrize("kit", DEMO_KITS)
def test_demo_serves_in_fp32(kit):
    assert open_kit(kit, tiny=True, changes=DEMO_CHANGES).tables["serve"]["precision"] == "fp32"


def test_demo_trains_networks_and_fits_estimators_on_the_same_folds(monkeypatch):
    sessions = []

    def open_session(stage, kit, work, *, fold="all", **options):
        sessions.append((stage, kit.name, fold))
        run = SimpleNamespace(name=f"{kit.name}-0")
        return SimpleNamespace(train=lambda reporter: None, run=run)

    monkeypatch.setattr("wbdc.train.session.open_session", open_session)
    runs = _train(Path("demo"), SimpleNamespace(hash="0"), 0, "cpu", 1, None)
    assert runs == [f"{name}-0" for name in (*DEMO_KITS, *DEMO_ESTIMATORS)]
    assert sessions[0] == ("pretrain", "dual_stream", "all")
    assert sessions[1:] == [("train", name, DEMO_FOLDS) for name in (*DEMO_KITS, *DEMO_ESTIMATORS)]


def test_data_with_sound_and_speech_is_named_and_generated(tmp_path):
    options = ("--data-only", tmp_path, "--videos", 40, "--sound", "--wav", "--speech")
    result = toys.wbdc("demo", *options)
    assert result.exit_code == 0
    assert "A contest and kits with sound: " in result.stdout
    assert "A contest and a kit with speech tokens: " in result.stdout
    files = ("contest_with_sound.py", "vggish.toml", "ast.toml", "contest_with_speech.py")
    assert all((tmp_path / name).is_file() for name in (*files, "speech.toml"))
    assert list((tmp_path / "data" / "audio").rglob("*.wav"))
    assert list((tmp_path / "data" / "speech").rglob("*.txt"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--sound"], "--sound generates data for a kit of its own; add --data-only DIR"),
        (["--speech"], "--speech generates data for a kit of its own; add --data-only DIR"),
        (["--wav"], "--wav chooses the files of --sound; add --sound"),
    ],
)
def test_an_option_of_generated_data_needs_another_one(options, expected):
    result = toys.wbdc("demo", *options)
    assert result.exit_code == 2
    assert expected in " ".join(result.stderr.split())


def test_demo_holds_out_enough_videos_to_learn_weights():
    assert VIDEOS * SPLIT_SHARES["labeled"] * len(DEMO_FOLDS.split(",")) / DEMO_FOLD_COUNT >= 250


@pytest.mark.parametrize(("members", "text"), [(2, "Weights: "), (1, "Ensemble over a")])
def test_demo_prints_weights_and_time_check(members, text, capsys):
    rng, classes = np.random.default_rng(0), ["0000", "0001", "0102"]
    truth = rng.integers(3, size=60)
    p = rng.dirichlet(np.ones(3), (members, 60)).astype(np.float32)
    report = evaluate_ensemble(
        "ab"[:members], p, truth, np.arange(60) % 2, classes, WeChat2022(), draws=10
    ) | {"rows": 60, "folds": ["0", "1"]}
    submission = {"folder": "s", "latency": {"verdict": "PASS", "sentence": "It fits."}}
    print_demo(
        Path("demo"),
        {
            "report": report,
            "test_scores": report["ensemble"],
            "submission": submission,
            "prepared": "p",
            "page": "demo/reports/demo.html",
        },
    )
    output = capsys.readouterr().out
    assert text in output
    assert "Time check: PASS. It fits." in output
    assert "Report: demo/reports/demo.html" in output
    assert "result.csv, test labels" in output
