"""Alarms about losses: planted faults of every objective raise them, healthy training does not."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import toys
from torch import nn

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.train import objectives, training_log
from wbdc.train.fit import fit
from wbdc.train.monitor.alarm_rules import LossLevels
from wbdc.train.monitor.alarms import Alarm
from wbdc.train.monitor.loss_monitor import LossMonitor, build_loss_monitor

STEPS = 50  # 5 logged values: the fewest that are judged
EVERY_OBJECTIVE = [
    (use, settings)
    for use in plug.plug_names(objectives)
    for settings in toys.OBJECTIVES.get(use, [{}])
    if use != "r_drop"  # two uniform predictions are equal, so it has no chance level
]
# mask_patches needs another tower: see test_mask_patches.py
every_objective = pytest.mark.parametrize(
    ("use", "settings"), [case for case in EVERY_OBJECTIVE if case[0] != "mask_patches"]
)


def build(use: str, settings: dict, model) -> objectives.Objective:
    torch.manual_seed(1)
    return plug.build_plug(objectives, {"use": use, **settings}, model, toys.TASK)


def toy_batches(steps: int, frames: int = 3) -> Iterator[Batch]:
    """Yield batches of features, each with its own words, frames and labels."""
    for step in range(steps):
        yield toys.batch((frames,) * 6, "features", seed=step % 11)


def train(
    use: str,
    settings: dict,
    steps: int = STEPS,
    total_steps: int = STEPS,
    rate: float = 1e-3,
    between: int = training_log.LOG_EVERY_STEPS,
) -> LossMonitor:
    """Train a toy model; return the monitor of its losses.

    between: steps from one batch to the next. By default only those steps are computed whose losses
    are logged.
    """
    model = toys.model("single_stream", "features")
    modules = nn.ModuleList([build(use, settings, model)])
    monitor = build_loss_monitor(modules, total_steps)
    optimizer = torch.optim.AdamW([*model.parameters(), *modules.parameters()], lr=rate)

    def log(number: int, outcome) -> None:
        step = number * between
        if step % training_log.LOG_EVERY_STEPS == 0:
            monitor.add(step, {name: float(loss) for name, loss in outcome.losses.items()})

    fit(model, modules, toy_batches(steps // between), optimizer, after_step=log)
    return monitor


def kinds(monitor: LossMonitor) -> list[str]:
    return [alarm.kind for alarm in monitor.alarms]


def replace_predictions(
    monkeypatch: pytest.MonkeyPatch,
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    is_teacher_certain: bool = False,
) -> None:
    """Let the loss functions of torch see `predict(prediction, truth)` instead of predictions.

    truth: that prediction which has the lowest possible loss. is_teacher_certain: whether soft
    targets become their most probable class, as when a teacher sees the truth, too.
    """

    def cross_entropy(logits, target, *rest, **options):
        count = logits.shape[-1]
        if is_teacher_certain and target.is_floating_point():
            target = F.one_hot(target.argmax(-1), count).to(target.dtype)
        soft = target if target.is_floating_point() else F.one_hot(target.clamp(min=0), count)
        smoothing = options.get("label_smoothing", 0.0)
        soft = (1 - smoothing) * soft + smoothing / count
        truth = soft.clamp(min=1e-9).log()
        return real["cross_entropy"](predict(logits, truth), target, **options)

    def binary(logits, target, *rest, **options):
        truth = torch.logit(target, 1e-6)
        return real["binary_cross_entropy_with_logits"](predict(logits, truth), target, **options)

    def regression(name):
        return lambda x, target, *rest, **options: real[name](predict(x, target), target, **options)

    fakes = {"cross_entropy": cross_entropy, "binary_cross_entropy_with_logits": binary}
    fakes |= {name: regression(name) for name in ("mse_loss", "l1_loss", "smooth_l1_loss")}
    real = {name: getattr(F, name) for name in fakes}
    for name, fake in fakes.items():
        monkeypatch.setattr(F, name, fake)


@pytest.mark.slow
@every_objective
def test_trap_22_an_objective_that_learns_nothing_is_inert(use, settings, monkeypatch):
    replace_predictions(monkeypatch, lambda prediction, truth: prediction * 0)
    monitor = train(use, settings)
    assert kinds(monitor) == ["inert"]
    (alarm,) = monitor.alarms
    assert (alarm.name, alarm.step, alarm.ended_step) == (use, STEPS, None)
    assert alarm.value > 0.98 * alarm.level


@pytest.mark.slow
@every_objective
def test_trap_22_an_objective_whose_target_is_revealed_is_leaking(use, settings, monkeypatch):
    replace_predictions(monkeypatch, lambda prediction, truth: truth + 0 * prediction, True)
    monitor = train(use, settings, steps=30, total_steps=300)
    assert kinds(monitor) == ["leaking"]
    (alarm,) = monitor.alarms
    assert (alarm.name, alarm.step) == (use, 30)
    assert "must predict" in alarm.message


@pytest.mark.slow
@pytest.mark.parametrize("use", ["mask_words", "match", "classify"])
def test_an_objective_with_a_learning_rate_of_0_is_inert(use):
    assert kinds(train(use, {}, rate=0)) == ["inert"]


@pytest.mark.slow
@pytest.mark.parametrize(("use", "settings"), [("mask_words", {"share": 0.3}), ("classify", {})])
def test_healthy_training_raises_no_alarm(use, settings):
    """Eleven batches again and again: every loss falls, none at once."""
    monitor = train(use, settings, steps=120, total_steps=120, rate=3e-3, between=1)
    assert kinds(monitor) == []
    assert 0 < monitor.means()[use] < 0.9 * monitor.chances()[use]


MATCH = LossLevels(math.log(2))


def fill(values: list[float], levels: LossLevels = MATCH) -> tuple[LossMonitor, list[Alarm]]:
    """Return a monitor after one value at every tenth step of 1000, and what it returned."""
    monitor = LossMonitor({"match": levels}, 1000)
    changes = [c for i, v in enumerate(values, 1) for c in monitor.add(10 * i, {"match": v})]
    return monitor, changes


def test_the_match_of_real_captions_raises_an_alarm():
    """Losses of a real pretraining that stayed at chance: .6935 against .6931."""
    values = [0.71, 0.70, *[0.6935 + 0.003 * (-1) ** i for i in range(28)]]
    monitor, changes = fill(values)
    assert changes == monitor.alarms
    (alarm,) = changes
    assert (alarm.kind, alarm.step) == ("inert", 200)
    assert f"{alarm.value:.4f}" == "0.6935"
    assert alarm.message.startswith(
        "match is inert: its mean loss is 0.6935 after step 200, and its chance level is 0.6931, "
        "so the model has not learned anything from it yet; train for more steps"
    )


def test_an_alarm_is_raised_once_and_ends_when_the_loss_falls():
    monitor, changes = fill([0.6935] * 30 + [0.4] * 30)
    assert [(c.step, c.ended_step) for c in changes] == [(200, None), (200, 330)]
    assert monitor.alarms == [changes[1]]
    assert changes[1].end_message() == "alarm ended after step 330: match inert"


def test_a_loss_above_chance_has_other_causes():
    _, (alarm,) = fill([0.75] * 20)
    assert (
        "above its chance level of 0.6931; either the learning rate is too high or" in alarm.message
    )


def test_a_loss_without_a_known_chance_level_raises_no_alarm():
    monitor, changes = fill([0.0] * 40, LossLevels(None))
    assert changes == []
    assert monitor.chances() == {}
    assert monitor.means() == {"match": 0.0}


def test_losses_that_are_not_finite_do_not_count():
    monitor, changes = fill([math.nan] * 10 + [0.5] + [math.inf] * 15)
    assert monitor.means() == {"match": 0.5}
    assert changes == []


def test_a_restored_monitor_raises_the_same_alarms():
    """Restored after any step: with few values, with an alarm, and after its end."""
    values = [0.001] * 4 + [0.6935 + 0.01 * (i % 3) for i in range(30)] + [0.3] * 20
    whole, _ = fill(values)
    assert kinds(whole) == ["leaking", "inert"]
    assert [alarm.ended_step for alarm in whole.alarms][1]
    shapes = {name: t.shape for name, t in whole.state().items()}
    for stop in range(len(values)):
        before, _ = fill(values[:stop])
        resumed, _ = fill([])
        assert {name: t.shape for name, t in before.state().items()} == shapes
        resumed.restore(before.state())
        assert resumed.alarms == before.alarms
        for i, value in enumerate(values[stop:], stop + 1):
            resumed.add(10 * i, {"match": value})
        assert resumed.alarms == whole.alarms
        assert resumed.means() == whole.means()


# too low a rate to learn anything in 60 steps
RATES = 'train.learning_rate={rest=1e-9, vision=1e-9, "fusion.trunk"=1e-9}'
INERT = (RATES, "train.trick=[]", "train.epochs=12")


def train_inert(kit: Path, work: Path) -> list:
    """Return the command of a training that learns nothing."""
    changes = [word for change in INERT for word in ("--set", change)]
    return ["train", "--kit", kit, "--work", work, "--fold", 0, "--threads", 1, *changes]


class Killed(BaseException):
    """Ends a process without any of its handlers, as far as the folder of the fold is concerned."""


@pytest.mark.slow
def test_an_inert_training_warns_and_records_it_also_after_a_kill(fresh, kit, monkeypatch):
    command = [*train_inert(kit, fresh), "--save-every", 7]
    save_or_stop = training_log.StepMonitor._save_or_stop

    def kill(monitor, step: int, is_stopping: bool) -> None:
        save_or_stop(monitor, step, is_stopping)
        if step == 45:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training_log.StepMonitor, "_save_or_stop", kill)
        with pytest.raises(Killed):
            toys.wbdc(*command)
    result = toys.wbdc(*command, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    (alarm,) = report["folds"]["0"]["alarms"]
    assert (alarm["kind"], alarm["name"], alarm["step"]) == ("inert", "classify", 60)
    assert result.stderr.count(f"warning: {alarm['message']}") == 1

    folder = Path(report["folder"]) / "fold-0"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["alarms"] == {"classify inert": round(alarm["value"], 5)}
    assert lines[-1]["messages"] == {"classify inert": alarm["message"]}
    logged = {line["step"]: line["classify"] for line in lines if "classify" in line}
    window = [logged[step] for step in (20, 30, 40, 50, 60)]
    assert alarm["value"] == pytest.approx(sum(window) / 5), "two values were restored"
    assert lines[-2]["running_mean"] == {"classify": round(alarm["value"], 5)}
    assert lines[-2]["chance"] == {"classify": round(alarm["level"], 5)}

    finished = toys.wbdc(*command)
    assert f"fold 0: {alarm['message']}" in finished.stdout
