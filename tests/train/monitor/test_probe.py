"""The probe of pretraining measures embeddings, changes no bit, and raises an alarm when they
collapse.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import toys

from wbdc.train import training_log, training_setup
from wbdc.train.monitor.probe import (
    MAX_PROBE_VIDEOS,
    Probe,
    choose_probe_videos,
    collapse_message,
    is_collapsed,
)

LABELS = np.repeat(np.arange(4), 10)
EPOCH_STEPS = 6  # of the toy kit: 48 videos in batches of 8


def scripted(embeddings: list[np.ndarray], every: int = 5, steps: int = 12) -> Probe:
    """A probe of a small layer whose embeddings are given, one array a measurement."""
    values = iter(embeddings)
    layer = torch.nn.Linear(2, 2)
    return Probe(layer, [], lambda: next(values), LABELS, steps=steps, every=every)


def spread(scale: float = 1.0, seed: int = 0) -> np.ndarray:
    """Return embeddings of four classes around a common point, closer with a smaller scale."""
    random = np.random.default_rng(seed)
    return 1 + scale * (np.eye(8)[LABELS] + 0.1 * random.normal(size=(40, 8)))


def test_the_halves_of_the_probe_hold_each_class_equally_often():
    labels = np.random.default_rng(0).permutation(np.repeat([-1, 0, 1, 2], [900, 500, 300, 100]))
    chosen = choose_probe_videos(labels, seed=1)
    assert len(set(chosen.tolist())) == len(chosen) == MAX_PROBE_VIDEOS
    assert (labels[chosen] >= 0).all()
    halves = [np.bincount(labels[chosen][start::2], minlength=3) for start in (0, 1)]
    assert np.abs(halves[0] - halves[1]).max() <= 1
    assert (choose_probe_videos(labels, seed=1) == chosen).all()
    assert not (choose_probe_videos(labels, seed=2) == chosen).all()


@pytest.mark.parametrize(("labeled", "chosen"), [(0, 0), (19, 0), (20, 20), (21, 21)])
def test_few_labels_are_not_probed(labeled, chosen):
    labels = np.full(100, -1)
    labels[:labeled] = 3
    assert len(choose_probe_videos(labels, seed=0)) == chosen


def test_a_probe_measures_before_training_every_few_steps_and_after_the_last():
    probe = scripted([])
    assert [step for step in range(13) if probe.is_due(step)] == [0, 5, 10, 12]


def test_separate_classes_are_found_and_noise_is_not():
    noise = np.random.default_rng(0).normal(size=(40, 8))
    probe = scripted([spread(), noise])
    first = probe.measure(0)
    second = probe.measure(5)
    assert first.knn_accuracy == 1.0
    assert second.knn_accuracy < 0.6
    assert probe.majority_accuracy == 0.25


def test_a_collapse_raises_one_alarm_that_ends_when_the_rank_recovers():
    probe = scripted([spread(), spread(0.9), spread(1e-3), spread(1e-3), spread()], 1, 4)
    for step in range(2):
        probe.measure(step)
    assert probe.alarms == []

    probe.measure(2)
    (alarm,) = probe.alarms
    start, _, rank = (record.effective_rank for record in probe.records)
    assert (alarm.kind, alarm.name, alarm.step) == ("collapsed", "embeddings", 2)
    assert (alarm.value, alarm.level, alarm.ended_step) == (rank, start, None)
    assert alarm.message == collapse_message(2, rank, start)
    probe.measure(3)
    assert probe.alarms == [alarm]
    probe.measure(4)
    assert probe.alarms == [alarm._replace(ended_step=4)]


def test_the_share_of_a_collapse_is_measured_from_rank_1():
    assert is_collapsed(1.05, 2.0)
    assert not is_collapsed(1.15, 2.0)
    assert is_collapsed(10.0, 100.0)
    assert not is_collapsed(20.0, 100.0)


def test_embeddings_that_are_not_finite_have_no_numbers():
    broken = spread()
    broken[3, 2] = math.inf
    probe = scripted([spread(), broken])
    probe.measure(0)
    assert probe.numbers(probe.measure(5)) == {
        "knn_accuracy": None,
        "majority_accuracy": 0.25,
        "effective_rank": None,
    }
    assert probe.alarms == []


def test_a_restored_probe_has_the_same_records_and_a_state_of_the_same_shape():
    probe = scripted([spread(seed=i) for i in range(4)])
    shape = probe.state()["records"].shape
    for step in (0, 5, 10, 12):
        probe.measure(step)
        state = probe.state()
        assert state["records"].shape == shape
        resumed = scripted([])
        resumed.restore(state)
        assert resumed.records == probe.records


def pretrain(kit: Path, work: Path, *changes: str) -> list:
    options = [word for change in changes for word in ("--set", change)]
    return ["pretrain", "--kit", kit, "--work", work, "--threads", 1, *options]


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Killed(BaseException):
    """Ends a process without any of its handlers, as far as the folder of the fold is concerned."""


@pytest.mark.slow
def test_the_probe_changes_no_bit_and_survives_a_kill(fresh, kit, monkeypatch):
    """Killed after the second measurement, and before a state that holds it."""
    without = toys.run_json(*pretrain(kit, fresh, "pretrain.probe_every=0"))
    assert "probes" not in without

    command = [*pretrain(kit, fresh), "--save-every", 4]
    save_or_stop = training_log.StepMonitor._save_or_stop

    def kill(monitor, step: int, is_stopping: bool) -> None:
        if step == EPOCH_STEPS:
            raise Killed
        save_or_stop(monitor, step, is_stopping)

    with monkeypatch.context() as patch:
        patch.setattr(training_log.StepMonitor, "_save_or_stop", kill)
        with pytest.raises(Killed):
            toys.wbdc(*command)
    result = toys.wbdc(*command)
    assert result.exit_code == 0, result.stderr
    assert "resumes after step 4 of 12" in result.stderr
    assert "step 0 of 12: nearest-neighbor" not in result.stderr, "it was restored"

    report = toys.run_json(*command)
    folders = [Path(facts["folder"]) / "fold-all" for facts in (without, report)]
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    assert report["last"] == without["last"]

    assert [probe["step"] for probe in report["probes"]] == [0, 6, 12]
    lines = {m["step"]: m["probe"] for m in metrics(folders[1]) if "probe" in m}
    assert lines == {p["step"]: {k: p[k] for k in p if k != "step"} for p in report["probes"]}
    last = report["probes"][-1]
    assert 0 < last["majority_accuracy"] < 1
    assert 1 < last["effective_rank"] <= 16
    assert (
        f"step 12 of 12: nearest-neighbor accuracy {last['knn_accuracy']:.3f} (majority class "
        f"{last['majority_accuracy']:.3f}), effective rank {last['effective_rank']:.1f}"
    ) in result.stderr
    assert "nearest-neighbor accuracy" in result.stdout


def test_pretraining_without_labels_skips_the_probe(fresh, kit):
    result = toys.wbdc(*pretrain(kit, fresh, 'pretrain.splits=["unlabeled"]', "pretrain.epochs=1"))
    assert result.exit_code == 0, result.stderr
    line = "the probe of the embeddings is skipped: fewer than 20 of the videos have a label"
    assert result.stderr.count(line) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.probe_every=1", "train.probe_every is not a setting, because [train] scores the"),
        ("pretrain.probe_every=-1", "pretrain.probe_every = -1; it must be between 0 and"),
    ],
)
def test_probe_settings_without_effect_are_refused(fresh, kit, change, message):
    result = toys.wbdc(*pretrain(kit, fresh, change), "--dry-run")
    assert result.exit_code == 2
    assert message in result.stderr


def test_collapsed_embeddings_warn_once_and_are_recorded(fresh, kit, monkeypatch):
    scales = iter([1.0, 0.0, 0.0])

    def embed(model, dataset, positions, *rest) -> np.ndarray:
        return 1e-4 + next(scales) * np.eye(16)[np.arange(len(positions)) % 16]

    monkeypatch.setattr(training_setup, "embed_videos", embed)
    result = toys.wbdc(*pretrain(kit, fresh), "--json")
    assert result.exit_code == 0, (result.stderr, result.exception)
    report = json.loads(result.stdout)
    (alarm,) = report["alarms"]
    assert (alarm["kind"], alarm["name"], alarm["step"]) == ("collapsed", "embeddings", 6)
    assert "their effective rank is 1.0 after step 6, and was 16.0 before" in alarm["message"]
    assert result.stderr.count(f"warning: {alarm['message']}") == 1
    lines = metrics(Path(report["folder"]) / "fold-all")
    assert [m["alarms"] for m in lines if "alarms" in m] == [
        {"embeddings collapsed": round(alarm["value"], 5)}
    ]
