"""Small trainings through the command line: losses fall, every held-out video is scored once, and
the seed determines the bits.
"""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import toys
from safetensors.torch import load_file

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.files import read_json
from wbdc.core.integrity import verify_seal
from wbdc.prepare.dataset import open_prepared
from wbdc.train import initial_model, train_fold, training_setup
from wbdc.train.kit import open_kit


def metrics(report: dict, fold: str = "0") -> list[dict]:
    return [
        json.loads(line)
        for line in (Path(report["folder"]) / f"fold-{fold}" / "metrics.jsonl")
        .read_text()
        .splitlines()
    ]


def train(kit: Path, work: Path, *words: object) -> dict:
    return toys.run_json("train", "--kit", kit, "--work", work, "--threads", 1, *words)


@pytest.fixture(scope="session")
def long(ready, kit):
    """Twelve epochs on every row, without tricks."""
    return train(kit, ready, "--fold", "all", "--set", "train.epochs=12", "--set", "train.trick=[]")


def test_losses_go_down(long):
    losses = [m["classify"] for m in metrics(long, "all")]
    chance = long["folds"]["all"]["chance"]["classify"]
    assert math.isclose(chance, math.log(12))
    assert losses[0] > 0.8 * chance
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])
    assert all(map(math.isfinite, losses))


def test_trap_12_a_training_on_all_rows_reports_no_score(long):
    facts = long["folds"]["all"]
    assert not {"score", "official"} & set(facts)
    assert not (Path(long["folder"]) / "fold-all" / "oof.parquet").exists()


def test_a_finished_fold_is_complete_and_sealed(trained):
    folder = Path(trained["folder"]) / "fold-0"
    facts = verify_seal(folder)
    assert set(facts["files"]) == {
        "model.safetensors",
        "model.json",
        "kit.json",
        "tokenizer.json",
        "oof.parquet",
    }
    assert not list(folder.glob("state*"))
    assert not list(folder.glob(".*.tmp"))
    assert {"score", "official", "trained", "weights", "chance", "last", "steps"} <= set(
        trained["folds"]["0"]
    )


def test_a_finished_fold_is_not_trained_again(trained, ready, kit, monkeypatch):
    monkeypatch.setattr(initial_model, "build_initial_model", lambda *_: 1 / 0)
    assert train(kit, ready, "--fold", 0) == trained
    again = toys.wbdc("train", "--kit", kit, "--work", ready, "--threads", 1, "--fold", 0)
    assert "is already trained; its results are reused" in again.stderr


def test_trap_16_trained_weights_are_listed_by_name(trained):
    weights = load_file(Path(trained["folder"]) / "fold-0" / "model.safetensors")
    listed = [name for names in trained["folds"]["0"]["trained"].values() for name in names]
    assert sorted(listed) == sorted(name for name, w in weights.items() if w.is_floating_point())


@pytest.mark.slow
def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(fresh, kit, bits):
    repeated = train(kit, fresh, "--fold", 0)
    assert toys.bits(Path(repeated["folder"])) == bits
    other = train(kit, fresh, "--fold", 0, "--seed", 1, "--set", "train.epochs=1")
    assert other["run"] != repeated["run"]
    assert toys.bits(Path(other["folder"]))["model.safetensors"] != bits["model.safetensors"]


@pytest.mark.slow
def test_trap_21_the_score_covers_all_held_out_rows_at_once(fresh, ready, kit, trained):
    """Not a mean of batch means."""
    prepared = open_prepared(ready)
    small = train(kit, fresh, "--fold", 0, "--set", "serve.batch=3")
    tables = [
        pl.read_parquet(Path(report["folder"]) / "fold-0" / "oof.parquet")
        for report in (trained, small)
    ]
    held_out = [
        i
        for i, fold in zip(prepared.read_split("labeled")["id"], prepared.read_folds(), strict=True)
        if fold == 0
    ]
    for table, report in zip(tables, (trained, small), strict=True):
        assert table["id"].to_list() == held_out, (
            "every held-out video once, in the order of the data"
        )
        answers = [prepared.facts.classes[i] for i in table["p"].to_numpy().argmax(1)]
        assert report["folds"]["0"]["score"] == WeChat2022().score(
            table["label"].to_list(), answers, prepared.facts.classes
        )
    np.testing.assert_allclose(
        tables[0]["p"].to_numpy(), tables[1]["p"].to_numpy(), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(tables[0]["p"].to_numpy().sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(("epochs", "accumulate", "real"), [(3, 2, 7), (2, 3, 3), (2, 1, 10)])
def test_trap_04_the_schedule_spans_the_real_number_of_steps(
    fresh, kit, monkeypatch, epochs, accumulate, real
):
    """22 videos in batches of 4 are 5 batches an epoch; a step may span two epochs."""
    calls, factor = [], train_fold.learning_rate_factor
    monkeypatch.setattr(
        train_fold,
        "learning_rate_factor",
        lambda schedule, step, steps, warmup: (
            calls.append((step, steps, factor(schedule, step, steps, warmup))) or calls[-1][-1]
        ),
    )
    report = train(
        kit,
        fresh,
        "--fold",
        0,
        "--set",
        f"train.epochs={epochs}",
        "--set",
        f"train.accumulate={accumulate}",
        "--set",
        "train.trick=[]",
    )
    assert [step for step, _, _ in calls] == list(range(1, real + 1))
    assert {steps for _, steps, _ in calls} == {real}
    assert report["folds"]["0"]["steps"] == real
    assert calls[-1][-1] < 1e-9 < calls[0][-1]


def test_too_few_videos_for_one_step_are_refused(fresh, kit):
    result = toys.wbdc(
        "train",
        "--kit",
        kit,
        "--work",
        fresh,
        "--fold",
        0,
        "--set",
        "train.accumulate=30",
        "--threads",
        1,
    )
    assert result.exit_code == 2
    assert "22 videos make 20 batches of 4, too few for one step of 30" in result.stderr


@pytest.mark.parametrize("modality", ["text", "frames"])
def test_an_ablation_is_a_run_of_its_own_and_reads_no_removed_modality(
    fresh, kit, trained, bits, modality, monkeypatch
):
    shapes, forward = set(), toys.VideoClassifier.forward
    monkeypatch.setattr(
        toys.VideoClassifier,
        "forward",
        lambda self, batch: (
            shapes.add((batch.text.shape[1], batch.frames.shape[1])) or forward(self, batch)
        ),
    )
    report = train(kit, fresh, "--fold", 0, "--without", modality, *toys.SHORT)
    assert report["run"] != trained["run"]
    assert toys.bits(Path(report["folder"]))["oof.parquet"] != bits["oof.parquet"]
    assert {words if modality == "text" else frames for words, frames in shapes} == {
        1 if modality == "text" else 0
    }


@pytest.mark.slow
def test_training_starts_from_the_pretraining_of_its_kit(fresh, kit):
    first = toys.run_json("pretrain", "--kit", kit, "--work", fresh, "--threads", 1)
    assert set(first["last"]) == set(first["chance"]) == {"mask_words", "match"}
    assert "score" not in first
    after, anew = (
        train(kit, fresh, "--fold", 0, "--set", "train.epochs=1"),
        train(kit, fresh, "--fold", 0, "--set", "train.epochs=1", "--from", "none"),
    )
    assert after["run"] != anew["run"]
    assert "start" not in anew["folds"]["0"]["weights"]
    origin = after["folds"]["0"]["weights"]["start"]
    assert first["run"] in origin
    assert "loads" in origin
    assert "skips head." in origin
    source = load_file(Path(first["folder"]) / "fold-all" / "model.safetensors")
    initial = initial_model.build_initial_model(open_kit(str(kit)), open_prepared(fresh), 7)
    model = initial.model
    initial_model.start_from(initial, Path(first["folder"]) / "fold-all")
    assert all(
        torch.equal(t, source[n])
        for n, t in model.state_dict().items()
        if not n.startswith("head.")
    )
    assert not torch.equal(model.head.weight, source["head.weight"])


def test_a_pretraining_of_another_size_is_refused_naming_tensors(fresh, kit):
    wide = toys.run_json(
        "pretrain",
        "--kit",
        kit,
        "--work",
        fresh,
        "--threads",
        1,
        "--set",
        "pretrain.epochs=1",
        "--set",
        "trunk.architecture.hidden_size=32",
    )
    result = toys.wbdc(
        "train", "--kit", kit, "--work", fresh, "--fold", 0, "--threads", 1, "--from", wide["run"]
    )
    assert result.exit_code == 4
    assert "tensors of another shape: frame_start" in result.stderr
    words = toys.wbdc(
        *("train", "--kit", kit, "--work", fresh, "--fold", 0, "--from", wide["run"]),
        *("--set", "text.words=30"),
    )
    assert words.exit_code == 2
    assert f"{wide['run']} was pretrained with another vocabulary" in words.stderr


def test_the_test_split_is_never_trained_on(fresh, kit):
    result = toys.wbdc(
        "pretrain", "--kit", kit, "--work", fresh, "--set", 'pretrain.splits=["labeled", "test"]'
    )
    assert result.exit_code == 2
    assert "the test split is never trained on" in result.stderr


def test_fault_24_a_training_that_diverges_ends_with_exit_10_and_names_videos(fresh, kit):
    result = toys.wbdc(
        "train",
        "--kit",
        kit,
        "--work",
        fresh,
        "--fold",
        0,
        "--threads",
        1,
        "--set",
        "train.learning_rate.rest=1e30",
        "--json",
    )
    assert result.exit_code == 10
    assert "the loss was not finite 3 times in a row, last for videos" in result.stderr
    assert result.stdout == ""
    assert not list(fresh.glob("runs/*/fold-0/DONE.json"))


def test_a_refused_training_leaves_no_run_behind(fresh, kit):
    assert (
        toys.wbdc(
            "train", "--kit", kit, "--work", fresh, "--fold", 0, "--set", "text.length=20"
        ).exit_code
        == 2
    )
    assert not list(fresh.glob("runs/*/run.json"))


@pytest.mark.slow
def test_a_log_that_cannot_be_written_does_not_end_the_training(fresh, kit, bits):
    plan = toys.run_json(
        "train", "--kit", kit, "--work", fresh, "--fold", 0, "--threads", 1, "--dry-run"
    )
    folder = fresh / "runs" / plan["run"] / "fold-0"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").symlink_to("/dev/full")
    result = toys.wbdc("train", "--kit", kit, "--work", fresh, "--fold", 0, "--threads", 1)
    assert result.exit_code == 0, "training continues"
    assert result.stderr.count("metrics.jsonl") == 1, "and reports it once"
    assert toys.bits(folder.parent) == bits


TWIN = """
'''A loss that reads a file.'''
from pathlib import Path
from wbdc.train.objectives import Objective

class Twin(Objective):
    '''path: of a file. Refers to a part of the model and states no chance level.'''

    def __init__(self, model, task, *, path: str, weight: float = 1.0):
        super().__init__(model, task, weight=weight)
        self.trunk, self.size = model.trunk, float(Path(path).read_text())

    def loss(self, model, fused, batch, original):
        return self.size * fused.pooled.square().mean()
"""


@pytest.fixture
def twins(fresh, kit, tmp_path):
    """Return the path of a kit that pretrains with its own plug, used twice, on a file each."""
    (tmp_path / "twin.py").write_text(TWIN)
    for name in ("a", "b"):
        (tmp_path / name).write_text("1.0")
    tables = ", ".join(
        f'{{ use = "./twin.py", path = "{tmp_path / name}" }}' for name in ("a", "b")
    )
    text = kit.read_text().replace(
        '{ use = "mask_words", share = 0.15 }, { use = "match" }', tables
    )
    (tmp_path / "twins.toml").write_text(text)
    return tmp_path / "twins.toml"


def test_a_plug_used_twice_with_files_of_its_own_is_pretrained(fresh, twins):
    """The plug reads a file, refers to a part of the model, and states no chance level.

    Its table is printed, the weights of that part are in one group, and a changed file is another
    run.
    """
    words = [
        "pretrain",
        "--kit",
        twins,
        "--work",
        fresh,
        "--threads",
        1,
        "--set",
        "pretrain.epochs=1",
        "--set",
        "serve.batch=4",
    ]
    result = toys.wbdc(*words)
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert "twin" in result.stdout
    assert "twin#2" in result.stdout
    assert "–" in result.stdout
    first = toys.run_json(*words, "--dry-run")
    assert first["folds"] == {"all": "finished"}
    trained = read_json(fresh / "runs" / first["run"] / "fold-all" / "DONE.json")["trained"]["rest"]
    assert len(trained) == len(set(trained))
    assert not any(name.startswith("objective.") for name in trained)
    typed = result.stdout.replace("\n", " ").split("`")[1].split()
    assert typed[:5] == ["wbdc", "train", "--kit", str(twins), "--fold"]
    assert typed.count("--set") == 2
    plan = toys.run_json(*typed[1:], "--dry-run")
    assert plan["from"] == first["run"]
    assert "note" not in plan
    (twins.parent / "b").write_text("2.0")
    second = toys.run_json(*words, "--dry-run")
    assert second["run"] != first["run"]
    assert second["folds"] == {"all": "to train"}
    assert "differs in: a file that the kit names" in toys.run_json(*typed[1:], "--dry-run")["note"]


def test_a_model_part_referenced_by_an_objective_is_saved_once(fresh, twins, tmp_path):
    from torch import nn

    from wbdc.core import plug
    from wbdc.train import objectives, state
    from wbdc.train.optimizer import build_adamw, parameter_groups

    def learning(seed):
        model = toys.model(seed=seed)
        table = {"use": "./twin.py", "path": str(tmp_path / "a")}
        heads = nn.ModuleList(
            [plug.build_plug(objectives, table, model, toys.TASK, kit_folder=tmp_path)]
        )
        optimizer = build_adamw(parameter_groups(model, heads, {"rest": 1e-3}), {"rest": 1e-3}, 0.0)
        return state.TrainingState(
            model, heads, optimizer, [], torch.amp.GradScaler("cpu", enabled=False)
        )

    before, after = learning(0), learning(1)
    state.save_state(tmp_path, 3, state.gather_state(before), 2)
    assert state.restore_state(tmp_path, after) == (3, 2)
    assert after.objectives[0].trunk is after.model.trunk
    for (name, p), q in zip(
        before.model.state_dict().items(), after.model.state_dict().values(), strict=True
    ):
        assert torch.equal(p, q), name


def test_splits_of_training_are_refused(fresh, kit):
    result = toys.wbdc(
        "train",
        "--kit",
        kit,
        "--work",
        fresh,
        "--fold",
        0,
        "--dry-run",
        "--set",
        'train.splits=["labeled"]',
    )
    assert result.exit_code == 2
    assert "train.splits is not a setting" in result.stderr


LABELS = 'pretrain.objective=[{ use = "classify" }, { use = "classify_frames" }]'


def test_objectives_that_need_labels_pretrain_on_labeled_videos(fresh, kit):
    words = [
        "pretrain",
        "--kit",
        kit,
        "--work",
        fresh,
        "--threads",
        1,
        "--set",
        "pretrain.epochs=1",
        "--set",
        LABELS,
    ]
    report = toys.run_json(*words, "--set", 'pretrain.splits=["unlabeled", "labeled"]')
    assert all(math.isfinite(loss) and loss > 0 for loss in report["last"].values())
    assert report["skipped"] == 0
    result = toys.wbdc(*words, "--set", 'pretrain.splits=["unlabeled"]', "--dry-run")
    assert result.exit_code == 2
    assert "objective 'classify' needs labels" in result.stderr
    assert "'labeled'" in result.stderr


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("train.accumulate=30", 2),
        ("train.learning_rate.rest=1e30", 10),
        ("train.learning_rate.nobody=1.0", 2),
    ],
)
def test_a_training_that_fails_early_leaves_no_folder(fresh, kit, change, code):
    words = ["train", "--kit", kit, "--work", fresh, "--threads", 1, "--fold", 0, "--set", change]
    assert toys.wbdc(*words).exit_code == code
    assert not list((fresh / "runs").glob("*"))


def test_a_fold_that_fails_early_leaves_the_other_folds_alone(fresh, kit, monkeypatch):
    words = ["train", "--kit", kit, "--work", fresh, "--threads", 1, "--set", "train.epochs=1"]
    report = toys.run_json(*words, "--fold", 0)
    monkeypatch.setattr(training_setup, "build_adamw", None)
    assert toys.wbdc(*words, "--fold", 1).exit_code == 1
    assert {p.name for p in Path(report["folder"]).iterdir()} == {"run.json", "fold-0"}


@pytest.mark.slow
def test_a_head_that_no_objective_trains_raises_an_alarm(fresh, kit):
    settings = ("--set", "train.epochs=1", "--set", 'train.objective=[{ use = "mask_words" }]')
    result = toys.wbdc("train", "--kit", kit, "--work", fresh, "--fold", 0, *settings)
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert "the head of the classes was not trained" in result.stderr
    assert "the head of the classes was not trained" in " ".join(result.stdout.split())
    (alarm,) = _fold_facts(fresh)["alarms"]
    assert (alarm["kind"], alarm["name"]) == ("untrained", "head")


def test_a_trained_head_raises_no_alarm(trained):
    facts = trained["folds"]["0"]
    assert facts["alarms"] == []


def _fold_facts(work: Path) -> dict:
    (path,) = work.glob("runs/*/fold-0/DONE.json")
    return json.loads(path.read_text())
