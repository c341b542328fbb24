"""`wbdc train` on two ranks: equal to one process, one writer, and faults of one rank end all."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import rank_programs
import toys
from run_ranks import Command
from safetensors.torch import load_file

from wbdc.core.files import lock_folder
from wbdc.core.integrity import verify_seal

pytestmark = pytest.mark.slow

WITHOUT_DROPOUT = [
    *("--set", "fusion.dropout=0.0"),
    *("--set", "trunk.architecture.hidden_dropout_prob=0.0"),
    *("--set", "trunk.architecture.attention_probs_dropout_prob=0.0"),
]
# weights of AdamW after 20 steps: where a gradient is 0 but for rounding (the bias of attention
# keys), each step moves a weight by up to the learning rate in the direction of the rounding
TOLERANCE = 5e-4
SAVED = ["--set", "train.epochs=3", "--save-every", 3]  # and 15 steps


def command(folder: Path, kit: Path, *words: object, **settings: object) -> Command:
    arguments = ["train", "--kit", kit, "--fold", 0, "--threads", 1, *words]
    if "--work" not in words:
        arguments += ["--work", folder / "work"]
    return Command(folder / "logs", *arguments, **settings)


def fold_folder(work: Path) -> Path:
    return next((work / "runs").glob("*/fold-0"))


@pytest.fixture
def work(ready, tmp_path) -> Path:
    """A new work folder with prepared data."""
    shutil.copytree(ready / "prepared", tmp_path / "work" / "prepared")
    return tmp_path / "work"


@pytest.fixture(scope="module")
def long_run(ready, kit, tmp_path_factory) -> Path:
    """The fold of an uninterrupted training of 15 steps on two ranks, with dropout."""
    folder = tmp_path_factory.mktemp("long")
    shutil.copytree(ready / "prepared", folder / "work" / "prepared")
    ranks = command(folder, kit, *SAVED)
    assert ranks.wait() == [0, 0], ranks.output()
    return fold_folder(folder / "work")


def test_trap_17_two_ranks_train_and_score_as_one_process(work, kit, tmp_path):
    """22 training videos in batches of 3: uneven parts. FGM, EMA, two batches a step."""
    changes = [*WITHOUT_DROPOUT, "--set", "train.batch=3", "--set", "train.accumulate=2"]
    changes += ["--set", "train.validate_every=2", "--set", "serve.batch=2"]
    changes += ["--set", "train.activation_checkpointing=true"]
    shutil.copytree(work, tmp_path / "one")
    options = ("--kit", kit, "--fold", 0, "--threads", 1, "--work", tmp_path / "one")
    toys.run_json("train", *options, *changes)
    ranks = command(tmp_path, kit, *changes)
    assert ranks.wait() == [0, 0], ranks.output()

    one = fold_folder(tmp_path / "one")
    two = fold_folder(work)
    assert one.parent.name == two.parent.name
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
    weights = [load_file(fold / "model.safetensors") for fold in (one, two)]
    for name, expected in weights[0].items():
        np.testing.assert_allclose(weights[1][name], expected, atol=TOLERANCE, err_msg=name)
    oof = [pl.read_parquet(fold / "oof.parquet") for fold in (one, two)]
    assert oof[0]["id"].equals(oof[1]["id"]), "every video once, in the order of the data"
    np.testing.assert_allclose(oof[0]["p"].to_numpy(), oof[1]["p"].to_numpy(), atol=1e-5)

    facts = [verify_seal(fold) for fold in (one, two)]
    assert facts[0]["score"] == facts[1]["score"]
    assert facts[0]["validations"] == facts[1]["validations"]
    assert [fact["ranks"] for fact in facts] == [1, 2]
    assert facts[1]["command"].startswith("torchrun --nproc-per-node 2 -m wbdc train --kit ")
    metrics = [
        [json.loads(line) for line in (fold / "metrics.jsonl").read_text().splitlines()]
        for fold in (one, two)
    ]
    assert [m["step"] for m in metrics[0]] == [m["step"] for m in metrics[1]], "one rank writes"
    for ours, theirs in zip(*metrics, strict=True):
        if "classify" in ours:
            assert ours["classify"] == pytest.approx(theirs["classify"], abs=1e-4)
    assert ranks.output()[1] == "", "rank 0 prints"


def test_a_setting_out_of_bounds_is_printed_by_one_rank(work, kit, tmp_path):
    ranks = command(tmp_path, kit, "--set", 'train.trick=[{use="ema",decay=2}]')
    assert ranks.wait() == [2, 2], ranks.output()
    assert sum("decay = 2; it must be" in text for text in ranks.output()) == 1


def test_fault_28_a_killed_rank_stops_all_and_the_restart_ends_with_equal_bits(
    work, kit, tmp_path, long_run
):
    ranks = command(tmp_path, kit, *SAVED, patch=rank_programs.kill_rank_1)
    assert ranks.wait() == [11, -signal.SIGKILL]
    assert "another rank has ended" in ranks.output()[0]
    assert not (fold_folder(work) / "DONE.json").exists()

    ranks = command(tmp_path, kit, *SAVED)
    assert ranks.wait() == [0, 0], ranks.output()
    assert "resumes after step 3" in ranks.output()[0]
    assert toys.bits(fold_folder(work).parent) == toys.bits(long_run.parent)


def test_fault_32_a_stop_signal_to_one_rank_stops_all_at_the_same_step(
    work, kit, tmp_path, long_run
):
    ranks = command(tmp_path, kit, *SAVED, patch=rank_programs.stop_rank_1)
    assert ranks.wait() == [11, 11], ranks.output()
    first, second = ranks.output()
    assert "stopped after step" in first
    assert second == ""

    ranks = command(tmp_path, kit, *SAVED)
    assert ranks.wait() == [0, 0], ranks.output()
    assert toys.bits(fold_folder(work).parent) == toys.bits(long_run.parent)


@pytest.mark.parametrize("difference", ["kit", "data"])
def test_fault_29_ranks_with_another_kit_or_other_data_are_refused(
    work, kit, data, tmp_path, difference
):
    words = ["--work", work]
    if difference == "kit":
        words += ["--set", lambda rank: f"train.epochs={2 + rank}"]
    else:
        other = tmp_path / "other"
        toys.run_json("prepare", "--data", data, "--work", other, "--folds", 2, "--threads", 1)
        words = ["--work", lambda rank: [work, other][rank]]
    ranks = command(tmp_path, kit, *words)
    assert ranks.wait() == [4, 4], ranks.output()
    first, second = ranks.output()
    assert "rank 1 differs from rank 0 in: " in first
    assert second == ""
    assert not list((work / "runs").glob("*/fold-0")), "nothing was trained"
    named = "run (toy-" if difference == "kit" else "data ("
    assert named in first


def test_fault_07_a_full_disk_of_rank_0_ends_all_ranks(work, kit, tmp_path):
    ranks = command(tmp_path, kit, *SAVED, patch=rank_programs.fill_disk)
    assert ranks.wait() == [9, 9], ranks.output()
    first, second = ranks.output()
    assert "state-3.safetensors could not be written: No space left" in first
    assert second == ""


def test_fault_31_a_folder_in_use_ends_all_ranks(work, kit, tmp_path):
    run = toys.run_json("train", "--kit", kit, "--fold", 0, "--work", work, "--dry-run")["run"]
    with lock_folder(work / "runs" / run / "fold-0"):
        ranks = command(tmp_path, kit)
        assert ranks.wait() == [8, 8], ranks.output()
    first, second = ranks.output()
    assert f"is in use by process {os.getpid()}" in first
    assert second == ""


def test_a_batch_smaller_than_the_ranks_is_refused(work, kit, tmp_path):
    ranks = command(tmp_path, kit, "--set", "train.batch=1")
    assert ranks.wait() == [2, 2], ranks.output()
    assert "cannot be divided among 2 processes" in ranks.output()[0]


def test_a_named_gpu_is_refused_on_several_ranks(work, kit, tmp_path):
    ranks = command(tmp_path, kit, "--device", "cuda:0")
    assert ranks.wait() == [2, 2], ranks.output()
    assert "names one GPU for several processes" in ranks.output()[0]


SHARDED = [
    *WITHOUT_DROPOUT,
    *("--set", "train.fully_shard=true"),
    *("--set", "train.activation_checkpointing=true"),
    *("--set", "train.validate_every=1"),
    *("--set", 'train.keep="best"'),
    *("--set", "serve.batch=2"),
    *SAVED,
]


def test_sharded_layers_train_and_score_as_one_process_also_after_a_killed_rank(
    work, kit, tmp_path
):
    """With validations, the best weights, and recomputed layers. One process shards nothing."""
    shutil.copytree(work, tmp_path / "one")
    options = ("--kit", kit, "--fold", 0, "--threads", 1, "--work", tmp_path / "one")
    log = toys.wbdc("train", *options, *SHARDED).output
    assert "fully_shard has no effect on a single rank" in log
    ranks = command(tmp_path, kit, *SHARDED, patch=rank_programs.kill_rank_1)
    assert ranks.wait() == [11, -signal.SIGKILL]
    ranks = command(tmp_path, kit, *SHARDED)
    assert ranks.wait() == [0, 0], ranks.output()
    assert "resumes after step 3" in ranks.output()[0]
    assert "no effect" not in ranks.output()[0]

    one, two = (fold_folder(folder) for folder in (tmp_path / "one", work))
    weights = [load_file(fold / "model.safetensors") for fold in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        np.testing.assert_allclose(weights[1][name], expected, atol=TOLERANCE, err_msg=name)
    oof = [pl.read_parquet(fold / "oof.parquet")["p"].to_numpy() for fold in (one, two)]
    np.testing.assert_allclose(*oof, atol=1e-5)
