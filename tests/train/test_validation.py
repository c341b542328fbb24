"""Validation during training scores what would be exported, changes no bit of the training, and its
decisions survive interruptions.
"""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
import toys

from wbdc.core.files import read_json
from wbdc.core.ranks import Ranks
from wbdc.train import export, state, training_log, training_setup
from wbdc.train.evaluated_weights import copy_weights
from wbdc.train.tricks.ema import EMA
from wbdc.train.validation import Validation

EPOCH_STEPS = 5  # of the toy kit, which trains 4 epochs


def words(kit: Path, work: Path, *changes: str) -> list:
    options = [word for change in changes for word in ("--set", change)]
    return ["train", "--kit", kit, "--work", work, "--fold", 0, "--threads", 1, *options]


def train(kit: Path, work: Path, *changes: str) -> tuple[dict, Path]:
    """Train fold 0; return its facts and its folder."""
    report = toys.run_json(*words(kit, work, *changes))
    return report["folds"]["0"], Path(report["folder"]) / "fold-0"


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scripted(scores: list[float], **settings: object) -> Validation:
    """A validation of a small layer whose scores are given, one a step."""
    layer = torch.nn.Linear(2, 2)
    values = iter(scores)
    settings = {"steps": len(scores), "every": 1, **settings}
    return Validation(layer, [], lambda: {"mean": next(values)}, **settings)


@pytest.mark.parametrize(
    ("scores", "patience", "stop"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.3], 2, 4),  # an equal score is no improvement
        ([0.1, 0.3, 0.2, 0.31, 0.3], 2, None),
        ([0.3, 0.2, 0.2], 1, 2),
        ([math.nan, math.nan, math.nan], 2, 3),
        ([math.nan, 0.0, math.nan], 2, None),
        ([0.3, 0.2, 0.1], 0, None),
    ],
)
def test_training_stops_after_that_many_validations_without_improvement(scores, patience, stop):
    validation = scripted(scores, patience=patience)
    stops = []
    for step in range(1, len(scores) + 1):
        validation.validate(step)
        stops += [step] if validation.is_exhausted else []
    assert (stops or [None])[0] == stop


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.1, 0.3, 0.3, 0.2], 2), ([math.nan, 0.0, math.nan], 2), ([math.nan, math.nan], 1)],
)
def test_the_best_weights_are_those_of_the_first_highest_score(scores, best):
    validation = scripted(scores, keeps_best=True)
    for step in range(1, len(scores) + 1):
        validation.model.weight.data.fill_(step)
        validation.validate(step)
    assert validation.best_weights["weight"].unique().item() == best
    assert validation.facts()["weights_step"] == best
    assert validation.facts()["stop_step"] == len(scores)


def test_a_validation_comes_every_few_steps_and_after_the_last():
    validation = scripted([0.0] * 7, every=3)
    assert [step for step in range(1, 8) if validation.is_due(step)] == [3, 6, 7]


def test_a_saved_validation_has_the_same_tensors_at_every_step():
    validation = scripted([0.5, 0.6, 0.4], patience=2, keeps_best=True)
    shapes = {name: tensor.shape for name, tensor in validation.state().items()}
    for step in (1, 2, 3):
        validation.validate(step)
        assert {name: tensor.shape for name, tensor in validation.state().items()} == shapes

    resumed = scripted([0.0] * 3, patience=2, keeps_best=True)
    resumed.restore(validation.state())
    assert resumed.records == validation.records
    assert torch.equal(resumed.best_weights["weight"], validation.best_weights["weight"])


def test_a_validation_changes_no_random_number_no_mode_and_no_weight():
    model = toys.model().train()
    model.vision.eval()
    ema = EMA(model, toys.TASK, decay=0.5)
    average = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight.add_(1)
    validated = []

    def score() -> dict[str, float]:
        model.eval()
        torch.rand(3)
        validated.append(model.head.weight.clone())
        return {"mean": 0.0}

    before = torch.get_rng_state()
    weights = copy_weights(model)
    Validation(model, [ema], score, steps=1, every=1).validate(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.head.training
    assert not model.vision.training
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())
    assert torch.equal(validated[0], average), "the average is scored"


def test_validating_changes_no_bit_and_scores_what_is_exported(fresh, kit, trained, bits):
    facts, folder = train(kit, fresh, "train.validate_every=0.5")
    assert folder.parent.name != trained["run"]
    for name in ("model.safetensors", "oof.parquet"):
        assert (folder / name).read_bytes() == bits[name]

    steps = [record["step"] for record in facts["validations"]]
    assert steps == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert facts["validations"][-1]["score"] == facts["score"]["mean"], "EMA's weights are scored"
    assert (facts["stop_step"], facts["weights_step"]) == (20, 20)
    assert "selected_on" not in facts

    lines = metrics(folder)
    validations = {m["step"]: m["validation"] for m in lines if "validation" in m}
    assert list(validations) == steps
    assert validations[20] == facts["score"]
    assert all("classify" in m for m in lines if m not in lines[1::2])


def test_lines_of_the_metrics_hold_losses_rates_and_throughput(trained):
    lines = metrics(Path(trained["folder"]) / "fold-0")
    assert [m["step"] for m in lines] == [10, 20]
    for line in lines:
        assert set(line) == {
            "step",
            "steps",
            "epochs",
            "classify",
            "running_mean",
            "chance",
            "learning_rate",
            "videos_per_second",
            "seconds",
        }
        assert set(line["learning_rate"]) == {"fusion.trunk", "vision", "rest"}
        assert 0 < 40 / line["videos_per_second"] <= line["seconds"] + 0.02
    assert lines[0]["learning_rate"]["rest"] > lines[1]["learning_rate"]["rest"]
    assert lines[1]["seconds"] > lines[0]["seconds"]


def test_throughput_leaves_pauses_out(monkeypatch):
    from wbdc.train import metrics as metrics_file

    now = [0.0]
    monkeypatch.setattr(metrics_file.time, "monotonic", lambda: now[0])
    throughput = metrics_file.Throughput(8)
    for _ in range(5):
        throughput.count_step()
        now[0] += 1
    with throughput.paused():
        now[0] += 100
    assert throughput.read() == 8
    assert throughput.elapsed() == 105


# scores of the toy's validations after steps 5, 10 and 15; the fourth must not happen
SCORES = [0.2, 0.6, 0.5, 0.9]
STOPPING = ("train.validate_every=1", "train.patience=1", 'train.keep="best"')


class Script:
    """Scores weights by a list, in the order in which they are first seen.

    Equal weights get equal scores, so that a resumed training meets the scores of the one before.
    """

    def __init__(self):
        self.scores: dict[str, float] = {}
        self.weights: list[dict] = []

    def __call__(self, plan, model, *rest) -> dict[str, float]:
        weights = copy_weights(model)
        digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in weights.values()))
        key = digest.hexdigest()
        if key not in self.scores:
            self.scores[key] = SCORES[len(self.scores)]
            self.weights.append(weights)
        return {"mean": self.scores[key]}


@pytest.fixture
def script(monkeypatch) -> Script:
    script = Script()
    monkeypatch.setattr(training_setup, "score_held_out", script)
    return script


def test_the_best_weights_are_exported_after_an_early_stop(fresh, kit, script):
    from safetensors.torch import load_file

    result = toys.wbdc(*words(kit, fresh, *STOPPING))
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert (
        "training stops early after step 15 of 20: 1 validation without a higher score than "
        "0.6000, that of step 10"
    ) in result.stderr
    assert "its out-of-fold scores are optimistic" in result.stderr
    summary = " ".join(result.stdout.split())
    assert "Scores of fold 0 are optimistic: the held-out videos also selected" in summary
    ensemble = toys.wbdc("ensemble", "--work", fresh, "--draws", 100, "--no-class-priors")
    assert ensemble.exit_code == 0, (ensemble.stderr, ensemble.exception)
    assert "are optimistic, and so may be their weights" in " ".join(ensemble.stdout.split())
    folder = next(fresh.glob("runs/*/fold-0"))
    facts = read_json(folder / "DONE.json")
    assert [tuple(r.values()) for r in facts["validations"]] == [(0.2, 5), (0.6, 10), (0.5, 15)]
    assert facts["stop_step"] == 15
    assert facts["weights_step"] == 10
    assert facts["selected_on"] == "held-out fold"
    exported = load_file(folder / "model.safetensors")
    assert all(torch.equal(t, exported[name]) for name, t in script.weights[1].items())
    assert not list(folder.glob("state*"))
    assert set(facts["files"]) == {
        "model.safetensors",
        "model.json",
        "kit.json",
        "tokenizer.json",
        "oof.parquet",
    }


class Killed(BaseException):
    """Ends a process without any of its handlers, as far as the folder of the fold is concerned."""


@pytest.mark.slow
def test_best_weights_and_patience_survive_kills(fresh, kit, script, monkeypatch, tmp_path):
    """Killed between a validation and the state after it, with the best weights before and after,
    after the early stop, and during the export.
    """
    _, folder = train(kit, fresh, *STOPPING)
    whole = toys.bits(folder.parent)
    whole_facts = read_json(folder / "DONE.json")

    work = tmp_path / "again"
    (work / "prepared").parent.mkdir()
    (work / "prepared").symlink_to(fresh / "prepared")
    command = [*words(kit, work, *STOPPING), "--save-every", 3]
    saved_steps = []
    for kill_at in (10, 11, 14, 15, "export"):
        with monkeypatch.context() as patch:
            if kill_at == "export":
                patch.setattr(export, "publish_json", _kill)
            else:
                patch.setattr(
                    training_log.StepMonitor,
                    "_save_or_stop",
                    _killing(training_log.StepMonitor._save_or_stop, kill_at),
                )
            with pytest.raises(Killed):
                toys.wbdc(*command)
        saved_steps.append(read_json(next(work.glob("runs/*/fold-0/state.json")))["step"])
    assert saved_steps == [9, 9, 12, 12, 12]

    assert toys.wbdc(*command).exit_code == 0
    again = next(work.glob("runs/*/fold-0"))
    assert toys.bits(again.parent) == whole
    facts = read_json(again / "DONE.json")
    for name in ("validations", "stop_step", "weights_step", "selected_on"):
        assert facts[name] == whole_facts[name]
    assert len(script.scores) == 3, "every process met the same weights"


def _kill(*_: object) -> None:
    raise Killed


def _killing(save_or_stop, kill_at: int):
    """Return a `_save_or_stop` that is killed at a step, before it saves anything."""

    def save_unless_killed(monitor, step: int, is_stopping: bool) -> None:
        if step == kill_at:
            raise Killed
        save_or_stop(monitor, step, is_stopping)

    return save_unless_killed


def test_a_state_without_the_best_weights_is_refused(tmp_path):
    from wbdc.core.errors import IntegrityFault
    from wbdc.train.optimizer import build_adamw, parameter_groups

    def training(**settings):
        model = toys.model()
        heads = torch.nn.ModuleList()
        optimizer = build_adamw(parameter_groups(model, heads, {"rest": 1e-3}), {"rest": 1e-3}, 0.0)
        validation = Validation(model, [], dict, steps=4, every=2, **settings)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        return state.TrainingState(model, heads, optimizer, [], scaler, validation)

    state.save_state(tmp_path, 3, state.gather_state(training()))
    with pytest.raises(IntegrityFault, match="other settings; it differs in: validation.best"):
        state.restore_state(tmp_path, training(keeps_best=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.patience=2"], "train.patience = 2 has no effect without validation"),
        (['train.keep="best"'], "train.keep = 'best' has no effect without validation"),
        (['train.keep="bests"'], "did you mean 'best'?"),
        (["train.validate_every=-1"], "train.validate_every = -1; it must be between 0 and"),
        (["train.validate_every=1", "train.patience=-1"], "train.patience = -1; it must be"),
        (["train.validate_every=nan"], "nan is not a number"),
        (
            ["pretrain.validate_every=1"],
            "pretrain.validate_every is not a setting, because pretraining holds out no videos",
        ),
        (["pretrain.keep='last'"], "pretrain.keep is not a setting"),
    ],
)
def test_validation_settings_without_effect_are_refused(fresh, kit, changes, message):
    result = toys.wbdc(*words(kit, fresh, *changes), "--dry-run")
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("fold", ["all", "0,all"])
def test_trap_12_training_on_all_rows_refuses_to_validate(fresh, kit, fold):
    command = words(kit, fresh, "train.validate_every=1", "train.patience=3")
    command[command.index(0)] = fold
    result = toys.wbdc(*command)
    assert result.exit_code == 2
    assert "--fold all holds out no videos" in result.stderr
    assert "--set train.validate_every=0 --set train.patience=0 to train" in result.stderr
    assert not list(fresh.glob("runs/*"))


def test_losses_are_read_from_a_gpu_only_where_they_are_logged(tmp_path):
    validation = scripted([0.0] * 12, every=4)
    layer = torch.nn.Linear(2, 2, device="meta")  # like a GPU, not a CPU
    training = state.TrainingState(layer, None, None, [], None, validation)
    monitor = training_log.StepMonitor(
        tmp_path,
        task="train",
        steps=12,
        epochs=1,
        videos_per_step=1,
        save_every=7,
        skipped=0,
        training=training,
        metrics=None,
        reporter=None,
        ranks=Ranks(),
    )
    checked = [step for step in range(1, 13) if monitor.must_check(step)]
    assert checked == [4, 7, 8, 10, 12], "validated, saved, logged, last"
