"""A training that was killed or stopped resumes from its last state and ends in the same bits, or
explains why it cannot.
"""

import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest
import toys
from safetensors.torch import load_file, save_file

from wbdc.core.files import file_sha256, publish_json, read_json
from wbdc.train import state, train_fold

pytestmark = pytest.mark.slow

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(
    [
        "pytest",
        "wbdc.train.session",
        "wbdc.cli.train",
        "wbdc.nets.vision.clip",
        "transformers.models.bert.modeling_bert",
        "rich.progress",
    ]
)

CHILD = """
import os, signal, torch
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from wbdc.cli import main
from wbdc.train import export, metrics, run_fold, state, train_fold

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if isinstance(when, int):  # before the step of that number
    factor = train_fold.learning_rate_factor
    train_fold.learning_rate_factor = lambda schedule, step, *settings: (
        killed() if step == when else factor(schedule, step, *settings)
    )
elif when:
    owner, function = when.split(".")
    log = metrics.MetricsLog
    owners = {"state": state, "metrics": log, "run_fold": run_fold, "export": export}
    setattr(owners[owner], function, killed)
main(command)
"""

# steps, and functions; the last functions publish the files that end a fold
KILLS = [
    2,
    5,
    "state.publish_json",
    9,
    "metrics.write",
    14,
    20,
    "export.publish_json",
    "export.write_oof",
    "run_fold.seal_folder",
]


def command(kit: Path, work: Path) -> list[str]:
    return [
        str(word)
        for word in (
            "train",
            "--kit",
            kit,
            "--work",
            work,
            "--fold",
            0,
            "--threads",
            1,
            "--save-every",
            3,
            "--json",
        )
    ]


def child(words: list[str], when: int | str | None) -> int:
    """Run a command in a process that is killed before a step, or in place of a function.

    Returns the exit code.
    """
    process = forks.Process(target=exec, args=(CHILD, {"command": words, "when": when}))
    process.start()
    process.join(60)
    return process.exitcode


def test_a_training_killed_repeatedly_ends_in_the_same_bits(fresh, kit, bits):
    words, steps = command(kit, fresh), []
    for when in KILLS:
        assert child(words, when) == -signal.SIGKILL, when
        last = next(fresh.glob("runs/*/fold-0/state.json"), None)
        steps.append(read_json(last)["step"] if last else 0)
    assert steps == sorted(steps), "every process gets further than the one before"
    assert steps[0] == 0
    assert steps[-1] == 18
    assert steps[2] == steps[1], "weights without their state do not count"
    assert child(words, None) == 0
    folder = next(fresh.glob("runs/*"))
    assert toys.bits(folder) == bits
    assert not list((folder / "fold-0").glob("*state*"))
    assert not list(folder.rglob(".*.tmp"))


def train_until_stopped(
    fresh: Path, kit: Path, times: int = 1, by: signal.Signals = signal.SIGINT
) -> Path:
    """Train until Ctrl-C, or another signal, during step 5; return the folder of the fold."""
    factor = train_fold.learning_rate_factor
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train_fold,
            "learning_rate_factor",
            lambda schedule, step, *rest: (
                [signal.raise_signal(by) for _ in range(times if step == 5 else 0)]
                and 0
                or factor(schedule, step, *rest)
            ),
        )
        result = toys.wbdc(*command(kit, fresh))
    signal.signal(signal.SIGINT, previous)
    assert result.exit_code == 11
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert (
        "stopped after step 5 of 20; the same command resumes"
        if times == 1
        else "run the same command again to continue"
    ) in result.stderr
    return next(fresh.glob("runs/*/fold-0"))


@pytest.fixture(scope="module")
def stopped_runs(ready, kit, tmp_path_factory) -> Path:
    """The runs of a training that was stopped in step 5. Tests copy them."""
    work = tmp_path_factory.mktemp("stopped") / "work"
    shutil.copytree(ready / "prepared", work / "prepared")
    train_until_stopped(work, kit)
    return work / "runs"


@pytest.fixture
def stopped(fresh, stopped_runs) -> Path:
    """The folder of the fold in a copy of the stopped training, in the work folder `fresh`."""
    shutil.copytree(stopped_runs, fresh / "runs")
    return next(fresh.glob("runs/*/fold-0"))


@pytest.mark.parametrize(
    ("by", "times", "saved_step"),
    [(signal.SIGINT, 1, 5), (signal.SIGTERM, 1, 5), (signal.SIGINT, 2, 3)],
)
def test_fault_32_one_signal_stops_at_a_safe_point_and_two_at_once(
    fresh, kit, bits, by, times, saved_step
):
    before = signal.getsignal(by)
    folder = train_until_stopped(fresh, kit, times, by)
    assert read_json(folder / "state.json")["step"] == saved_step
    assert not (folder / "DONE.json").exists()
    assert signal.getsignal(by) is before
    result = toys.wbdc(*[word for word in command(kit, fresh) if word != "--json"])
    assert result.exit_code == 0
    assert f"resumes after step {saved_step} of 20" in result.stderr
    assert toys.bits(folder.parent) == bits


def test_a_drawn_epoch_resumes_in_its_middle_at_the_rates_of_its_layers(fresh, kit, tmp_path):
    settings = """epochs = 4
sampler = { use = "tempered", temperature = 0.3 }
schedule = { use = "cosine_restarts", cycles = 2 }
layer_decay = { vision = 0.5 }
"""
    drawn = tmp_path / "drawn.toml"
    drawn.write_text(kit.read_text().replace("epochs = 4\n", settings))
    shutil.copytree(fresh, tmp_path / "whole")
    toys.run_json(*[word for word in command(drawn, tmp_path / "whole") if word != "--json"])

    folder = train_until_stopped(fresh, drawn, times=2)
    assert read_json(folder / "state.json")["step"] == 3
    toys.run_json(*[word for word in command(drawn, fresh) if word != "--json"])
    assert toys.bits(folder.parent) == toys.bits(next(tmp_path.glob("whole/runs/*")))


def test_a_damaged_state_or_one_of_other_settings_is_refused(fresh, kit, stopped):
    folder = stopped
    path, facts = folder / "state-5.safetensors", read_json(folder / "state.json")
    whole, tensors = path.read_bytes(), load_file(path)
    bias = tensors["model.head.bias"]
    named = [name for name in tensors if name.startswith(("trick.1.", "optimizer.0.exp_avg"))][0]
    for change, message in (
        ({"model.head.bias": None}, "other settings; it differs in: model.head.bias"),
        ({"model.extra": bias.clone()}, "other settings; it differs in: model.extra"),
        ({"model.head.bias": bias[:-1].clone()}, "other settings; it differs in: model.head.bias"),
        ({named: None}, f"other settings; it differs in: {named}"),
    ):
        save_file({name: t for name, t in {**tensors, **change}.items() if t is not None}, path)
        publish_json(folder / "state.json", {**facts, "sha256": file_sha256(path)})
        _refused(kit, fresh, message)
    (folder / "state-previous.json").unlink()
    for damage in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), whole + b"x", b""):
        path.write_bytes(damage)
        publish_json(folder / "state.json", facts)
        _refused(
            kit, fresh, f"{path} is damaged: its hash is not the one in state.json; delete {folder}"
        )
    path.unlink()
    _refused(kit, fresh, f"{path} is missing; delete {folder}")


def test_a_damaged_state_json_is_exit_4_and_loses_nothing(fresh, kit, bits, stopped):
    folder = stopped
    path = folder / "state.json"
    (folder / "state-3.safetensors").unlink()
    whole = path.read_bytes()
    for damage in (
        b"{}",
        b"[]",
        b"",
        whole[:-5],
        b"[" * 100_000,
        b'"\xff"',
        whole.replace(b'"step"', b'"stop"'),
    ):
        path.write_bytes(damage)
        _refused(kit, fresh, f"{path} is damaged: ", f"delete {folder} to train this fold again")
        assert path.read_bytes() == damage
        assert list(folder.glob("state-*.safetensors"))

    path.write_bytes(whole)
    assert toys.wbdc(*command(kit, fresh)).exit_code == 0
    assert toys.bits(folder.parent) == bits


@pytest.mark.parametrize(
    ("name", "damage"),
    [("state-5.safetensors", "flipped"), ("state-5.safetensors", "deleted"), ("state.json", "cut")],
)
def test_fault_10_the_earlier_state_replaces_a_damaged_one(
    fresh, kit, bits, monkeypatch, stopped, name, damage
):
    folder = stopped
    assert sorted(path.name for path in folder.glob("state*")) == [
        "state-3.safetensors",
        "state-5.safetensors",
        "state-previous.json",
        "state.json",
    ]
    path = folder / name
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else whole)
    if damage == "deleted":
        path.unlink()

    with (
        monkeypatch.context() as patch
    ):  # stop it again: the damaged state must not become the earlier one
        patch.setattr(
            "wbdc.train.training_log.save_state",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        result = toys.wbdc(*command(kit, fresh))
    assert result.exit_code == 11, (result.stderr, result.exception)
    warning = result.stderr.splitlines()[0]
    assert warning.startswith("warning: ")
    assert path.name in warning
    assert warning.endswith("resumes from the state before it, saved after step 3")
    assert read_json(folder / "state.json")["step"] == 3

    assert toys.wbdc(*command(kit, fresh)).exit_code == 0
    assert toys.bits(folder.parent) == bits
    assert not list(folder.glob("*state*"))


def test_the_disk_never_holds_a_third_state(fresh, kit, monkeypatch):
    counts, publish = [], state.publish_file

    def counted(path, write):
        publish(
            path,
            lambda temporary: (
                write(temporary),
                counts.append(len(list(path.parent.glob("*state-*.safetensors*")))),
            ),
        )

    monkeypatch.setattr(state, "publish_file", counted)
    assert toys.wbdc(*command(kit, fresh)).exit_code == 0
    assert counts == [1, 2, 2, 2, 2, 2]


def test_a_second_training_in_the_same_folder_is_refused(fresh, kit, stopped):
    from wbdc.core.files import lock_folder

    with lock_folder(stopped):
        result = toys.wbdc(*command(kit, fresh))
    assert result.exit_code == 8
    assert "is in use by process" in result.stderr


def _refused(kit: Path, work: Path, *messages: str) -> None:
    result = toys.wbdc(*command(kit, work))
    assert result.exit_code == 4
    assert result.stdout == ""
    assert all(part in result.stderr for part in messages), result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
