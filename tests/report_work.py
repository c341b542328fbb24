"""A work folder for reports: data with hostile texts, and runs with made-up predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
import small

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.files import append_line, publish_json, seal_folder
from wbdc.ensemble.build_ensemble import build_ensemble
from wbdc.ensemble.ensemble_settings import EnsembleSettings
from wbdc.ensemble.variants import full_variant
from wbdc.prepare.build import prepare_data
from wbdc.serve.member_files import MODEL_FILE
from wbdc.train.metrics import METRICS_FILE
from wbdc.train.runs import OOF_FILE, Run, RunFacts, publish_run, write_oof

VIDEOS = 36
CLASSES = ("0000", "0001", "0100", "0203")
SCRIPT_TEXT = "<script>document.title = 'hacked'</script>\"'>&amp;{{ 7 * 7 }}"
RTL_TEXT = "\u202eשלום עולם"
LONG_TEXT = "长" * 15_000
HOSTILE_TEXTS = {0: SCRIPT_TEXT, 1: RTL_TEXT, 2: LONG_TEXT}
RUNS = ("toy-11111111", "other-22222222")
TEST_TEXT = "secret title of the test split"


def video_ids() -> list[str]:
    """The ids of the labeled videos."""
    return [f"{70_000_000_000_000_000_000 + 13 * i}" for i in range(VIDEOS)]


def write_data(root: Path) -> None:
    """Write a data root. Videos 4 and 5 have the same frames and other labels; video 6 has none."""
    rows = []
    random = np.random.default_rng(0)
    for i, name in enumerate(video_ids()):
        title = HOSTILE_TEXTS.get(i, "".join(map(chr, random.integers(0x4E00, 0x9000, 20))))
        row = {"id": name, "title": title, "asr": "speech " * (i % 3), "ocr": []}
        rows.append(row | {"category_id": CLASSES[i % 4]})
        frames = [] if i == 6 else small.photos(3, 4 if i in (4, 5) else i + 100)
        small.pack(small.archive(root, "labeled", name), small.frames(frames))
    small.annotate(root, "labeled", rows)
    small.annotate(root, "unlabeled", [])
    tests = [{"id": "9" * 20, "title": TEST_TEXT, "asr": "", "ocr": []}]
    small.annotate(root, "test", tests)
    small.pack(small.archive(root, "test", "9" * 20), small.frames(small.photos(1, 99)))


def probabilities(seed: int) -> np.ndarray:
    """Random probabilities (VIDEOS, C). The hostile videos 0 to 2, the near-duplicate 5 and video 6
    are wrong; the label of video 7 is likely an error.
    """
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(len(CLASSES)), VIDEOS)
    truth = np.arange(VIDEOS) % len(CLASSES)
    p[np.arange(VIDEOS), truth] += 0.5
    for row in (0, 1, 2, 5, 6):
        p[row, (truth[row] + 1) % 4] += 1.2 + row / 10
    p[7] = (0.97, 0.01, 0.01, 0.01)
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


def write_run(
    work: Path, name: str, data: str, seed: int, folds: np.ndarray, without: str | None = None
) -> Run:
    """Write a run of two finished folds with a log of training. seed: of its predictions."""
    kit, classes = name.split("-")[0], list(CLASSES)
    facts = RunFacts("train", kit, data, 0, without, None, classes, "wechat2022")
    run = Run(work / "runs" / name, facts)
    publish_run(run)
    p = probabilities(seed)
    truth = np.arange(VIDEOS) % len(CLASSES)
    for fold in (0, 1):
        folder = run.fold(str(fold))
        rows = np.flatnonzero(folds == fold)
        ids = [video_ids()[row] for row in rows]
        labels = [CLASSES[truth[row]] for row in rows]
        write_oof(folder / OOF_FILE, ids, str(fold), labels, p[rows])
        model = {
            "classes": list(CLASSES),
            "competition": "wechat2022",
            "member": "linear_text",
            "ngrams": {"analyzers": {"char": [1, 2]}, "fields": ["title"], "max_characters": 9}
            | {"sublinear": True},
            "serve": {"batch": 8, "precision": "fp32"},
        }
        publish_json(folder / MODEL_FILE, model)
        contest, predicted = WeChat2022(), [CLASSES[code] for code in p[rows].argmax(1)]
        write_log(folder / METRICS_FILE, fold)
        seal = {
            "score": contest.score(labels, predicted, CLASSES),
            "official": contest.score(labels, predicted),
            "chance": {"classify": 1.38629},
            "alarms": [],
            "steps": 40,
            "seconds": 12.5 + fold,
            "device": "cpu",
            "precision": "fp32",
            "command": f"wbdc train --kit {facts.kit} --fold {fold}",
        }
        seal_folder(folder, seal, [folder / OOF_FILE, folder / MODEL_FILE])
    return run


def write_log(path: Path, fold: int) -> None:
    """Write metrics.jsonl of a training that was resumed at step 20 and killed while writing."""
    for step in (10, 20, 30, 20, 30, 40):
        loss = 2 - step / 40 + fold / 10
        entry = {
            "step": step,
            "steps": 40,
            "epochs": 4,
            "classify": loss,
            "running_mean": {"classify": loss + 0.01},
            "chance": {"classify": 1.38629},
            "learning_rate": {"rest": 1e-3 * (1 - step / 40)},
            "videos_per_second": 100.0 + step,
            "seconds": step / 4,
        }
        append_line(path, json.dumps(entry))
    append_line(path, json.dumps({"step": 40, "validation": {"mean": 0.5 + fold / 8}}))
    append_line(path, '{"step": 50, "cla')


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with prepared data, two runs and the ensemble "pair"."""
    home = tmp_path_factory.mktemp("report")
    work = home / "work"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        write_data(home / "data")
        prepared, _ = prepare_data(home / "data", work, WeChat2022(), folds=2, threads=1)
        folds = prepared.read_folds()
        runs = [write_run(work, name, prepared.hash, i, folds) for i, name in enumerate(RUNS)]
        members = [full_variant(run) for run in runs]
        build_ensemble(work, "pair", members, settings=EnsembleSettings(draws=100))
    return work


def reseal(folder: Path, seal: dict) -> None:
    """Seal the folder of a fold again after its predictions changed."""
    facts = {name: value for name, value in seal.items() if name != "files"}
    seal_folder(folder, facts, [folder / OOF_FILE, folder / MODEL_FILE])
