"""Loggers receive what metrics.jsonl holds, and never change or end a training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import toys

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.train.external_loggers import ExternalLoggers, check_loggers
from wbdc.train.metrics import logged_values

# fakes with the signatures of mlflow 3.17 and wandb 0.31, which record their calls
MLFLOW = """
from types import SimpleNamespace

calls = []
experiments = {}

class MlflowClient:
    def __init__(self, tracking_uri=None, registry_uri=None, workspace_store_uri=None):
        calls.append(("client", tracking_uri))

    def get_experiment_by_name(self, name):
        return experiments.get(name)

    def create_experiment(self, name, artifact_location=None, tags=None):
        calls.append(("experiment", name, artifact_location))
        experiments[name] = SimpleNamespace(experiment_id="7")
        return "7"

    def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
        calls.append(("run", experiment_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
        assert len(params) <= 100, "the limit of a server"
        calls.append(("params", {p.key: p.value for p in params}) if params else
                     ("metrics", {(m.step, m.key): m.value for m in metrics}))

    def set_terminated(self, run_id, status=None, end_time=None):
        calls.append(("terminated", run_id))
"""
MLFLOW_ENTITIES = """
import re

class Metric:
    def __init__(self, key, value, timestamp, step, model_id=None):
        assert re.fullmatch(r"[/\\w.\\- :]*", key), key
        assert isinstance(timestamp, int)
        self.key, self.value, self.step = key, value, step

class Param:
    def __init__(self, key, value):
        assert isinstance(value, str) and len(value) <= 500
        self.key, self.value = key, value
"""
WANDB = """
from types import SimpleNamespace

calls = []

class Settings:
    def __init__(self, *, silent=False, console="auto"):
        assert silent and console == "off"

class Run:
    def log(self, data, step=None, commit=None):
        calls.append(("log", step, data))

    def finish(self, exit_code=None):
        calls.append(("finish",))

def init(entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None,
         config=None, mode=None, settings=None):
    calls.append(("init", project, dir, name, mode, config))
    return Run()
"""
OWN = '''
"""A logger of a user."""
from wbdc.train.loggers import Logger

class Own(Logger):
    """Writes names of values into a file."""

    def log(self, step, values):
        with (self.folder / "own.txt").open("a") as file:
            print(step, *values, file=file)

    def close(self):
        (self.folder / "closed").touch()
'''
FAILING = '''
"""A logger whose disk is full."""
from wbdc.train.loggers import Logger

class Failing(Logger):
    """Fails at the second value."""

    count = 0

    def log(self, step, values):
        self.count += 1
        if self.count > 1:
            raise OSError(28, "No space left on device")
'''


@pytest.fixture
def fakes(tmp_path, monkeypatch) -> Path:
    """Install fake packages and user's loggers in a folder on the path."""
    folder = tmp_path / "fakes"
    (folder / "mlflow").mkdir(parents=True)
    (folder / "mlflow" / "__init__.py").write_text(MLFLOW)
    (folder / "mlflow" / "entities.py").write_text(MLFLOW_ENTITIES)
    (folder / "wandb.py").write_text(WANDB)
    (folder / "own.py").write_text(OWN)
    (folder / "failing.py").write_text(FAILING)
    monkeypatch.syspath_prepend(folder)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    for name in ("mlflow", "mlflow.entities", "wandb"):
        sys.modules.pop(name, None)


def opened(use: str, folder: Path, warnings: list[str] | None = None) -> ExternalLoggers:
    settings = {"train.epochs": 3, "text.fields": "x" * 900} | {f"n.{i}": i for i in range(150)}
    warn = ([] if warnings is None else warnings).append
    return ExternalLoggers([use], folder, "toy-1 fold-0", settings, warn)


def send(loggers: ExternalLoggers) -> None:
    loggers.log(10, {"match#2": 2.0, "learning_rate/rest": 0.1})
    loggers.log(10, {"validation/mean": 0.5})
    loggers.close()


def test_a_line_is_sent_as_numbers_by_name():
    entry = {"step": 10, "steps": 20, "match#2": 2, "validation": {"mean": 0.5}, "seconds": 1.5}
    entry["messages"] = {"match#2 inert": "a sentence"}
    assert logged_values(entry) == {"match#2": 2.0, "validation/mean": 0.5, "seconds": 1.5}


def test_mlflow_gets_a_run_with_settings_and_values(fakes, tmp_path):
    import mlflow

    for _ in range(2):  # a resumed training adds a run to the same experiment
        send(opened("mlflow", tmp_path))
    calls = mlflow.calls
    assert calls[0] == ("client", f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    assert calls[1] == ("experiment", "wbdc", f"file://{tmp_path}/mlflow/artifacts")
    assert calls[2] == ("run", "7", "toy-1 fold-0")
    parameters = {k: v for call in calls[3:5] for k, v in call[1].items()}
    assert len(parameters) == 152
    assert parameters["train.epochs"] == "3"
    assert calls[5:8] == [
        ("metrics", {(10, "match_2"): 2.0, (10, "learning_rate/rest"): 0.1}),
        ("metrics", {(10, "validation/mean"): 0.5}),
        ("terminated", "r"),
    ]
    assert [call[0] for call in calls].count("experiment") == 1
    assert [call[0] for call in calls].count("run") == 2


def test_mlflow_uses_the_server_of_the_user(fakes, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    send(opened("mlflow", tmp_path))
    assert mlflow.calls[:2] == [("client", None), ("experiment", "wbdc", None)]
    assert not (tmp_path / "mlflow").exists()


def test_wandb_is_offline_unless_the_user_says_otherwise(fakes, tmp_path, monkeypatch):
    import wandb

    send(opened("wandb", tmp_path))
    first, *rest = wandb.calls
    assert first[:5] == ("init", "wbdc", str(tmp_path), "toy-1 fold-0", "offline")
    assert first[5]["train.epochs"] == 3
    assert rest == [
        ("log", 10, {"match#2": 2.0, "learning_rate/rest": 0.1}),
        ("log", 10, {"validation/mean": 0.5}),
        ("finish",),
    ]
    wandb.calls.clear()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "contest")
    send(opened("wandb", tmp_path))
    assert wandb.calls[0][1] == "contest"
    assert wandb.calls[0][4] is None, "wandb reads WANDB_MODE"


def test_tensorboard_writes_scalars_and_hides_repeated_steps(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = opened("tensorboard", tmp_path)
    for step in (10, 20, 30):
        first.log(step, {"classify": step / 10})
    first.close()
    resumed = opened("tensorboard", tmp_path)  # from a state before step 20
    resumed.log(20, {"classify": 2.5, "validation/mean": 0.5})
    resumed.close()

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("classify")] == [(10, 1.0), (20, 2.5)]
    assert [(e.step, e.value) for e in events.Scalars("validation/mean")] == [(20, 0.5)]


def test_a_logger_that_fails_is_dropped_with_one_warning(fakes, tmp_path):
    warnings: list[str] = []
    uses = [str(fakes / "failing.py"), str(fakes / "own.py")]
    loggers = ExternalLoggers(uses, tmp_path, "toy", {}, warnings.append)
    for step in (1, 2, 3):
        loggers.log(step, {"classify": 1.0})
    loggers.close()
    assert len(warnings) == 1
    assert "failing.py" in warnings[0]
    assert "No space left on device; training continues without it" in warnings[0]
    assert (tmp_path / "own.txt").read_text().count("\n") == 3, "the others continue"


def test_a_logger_that_cannot_be_opened_is_dropped_with_one_warning(fakes, tmp_path):
    (tmp_path / "mlflow").write_text("a file where a folder should be")
    warnings: list[str] = []
    loggers = opened("mlflow", tmp_path, warnings)
    send(loggers)
    assert len(warnings) == 1
    assert "logger 'mlflow' failed: FileExistsError" in warnings[0]


@pytest.mark.parametrize(
    ("use", "package"),
    [("mlflow", "mlflow"), ("wandb", "wandb"), ("tensorboard", "tensorboard")],
)
def test_a_missing_package_is_named_before_training(use, package, monkeypatch):
    for module in (package, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(EnvironmentFault, match=f"run: pip install {package}$"):
        check_loggers([use])


def test_an_unknown_logger_is_refused():
    with pytest.raises(UsageFault, match="did you mean 'wandb'"):
        check_loggers(["wanbd"])


@pytest.mark.slow
def test_loggers_change_neither_the_run_nor_its_bits(fresh, kit, trained, bits, fakes):
    words = ["train", "--kit", kit, "--work", fresh, "--fold", 0, "--threads", 1]
    result = toys.wbdc(
        *words, "--logger", fakes / "own.py", "--logger", fakes / "failing.py", "--json"
    )
    assert result.exit_code == 0, (result.stderr, result.exception)
    report = json.loads(result.stdout)
    assert report["run"] == trained["run"]
    assert toys.bits(Path(report["folder"])) == bits
    assert result.stderr.count("failing.py") == 1
    folder = Path(report["folder"]) / "fold-0"
    names = "classify chance/classify running_mean/classify "
    names += "learning_rate/fusion.trunk learning_rate/rest learning_rate/vision"
    lines = (folder / "own.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["10", "20"]
    assert sorted(lines[0].split()[1:]) == sorted([*names.split(), "videos_per_second", "seconds"])
    assert (folder / "closed").exists()


def test_a_missing_package_ends_the_command_with_exit_7(fresh, kit, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    words = ["pretrain", "--kit", kit, "--work", fresh, "--logger", "wandb"]
    result = toys.wbdc(*words)
    assert result.exit_code == 7
    assert "logger 'wandb' cannot import wandb" in result.stderr
    assert not list(fresh.glob("runs/*"))


@pytest.mark.slow
def test_no_logger_is_imported_unless_it_is_chosen():
    code = (
        "import sys, wbdc.train.session, wbdc.train.train_fold; "
        "print([m for m in sys.modules if m.split('.')[0] in ('mlflow', 'wandb', 'tensorboard') "
        "or m == 'torch.utils.tensorboard'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
