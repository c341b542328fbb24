"""A contest with speech tokens through the command line, from the raw data to a package."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import toys
from safetensors.torch import load_file

import wbdc
from wbdc.core.errors import UsageFault
from wbdc.prepare.dataset import open_prepared
from wbdc.prepare.demo.speech import SPEECH_CONTEST_FILE, SPEECH_KIT_FILE
from wbdc.prepare.demo.synthetic_contest import generate_contest
from wbdc.serve.engine import InferenceEngine
from wbdc.submit.pack import package
from wbdc.submit.pack.package import PackedMember, PackOptions, pack_submission
from wbdc.train.initial_model import build_initial_model, start_from
from wbdc.train.kit import open_kit

SPEECH = '[modality.speech]\nuse = "word2vec"\ndim = 4\nsteps = 16\nmin_count = 2\n'
HASHES = "modalities.speech.tower.hashes"
VECTORS = "modalities.speech.tower.vectors.weight"

pytest.importorskip("gensim")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Forty synthetic videos with speech tokens, prepared, beside the toy kit with speech."""
    home = tmp_path_factory.mktemp("speech")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        generate_contest(home, videos=40, with_speech=True)
    text = toys.KIT.replace('"wechat2022"', f'"./{SPEECH_CONTEST_FILE}"')
    (home / "toy.toml").write_text(text + SPEECH)
    paths = ("--data", home / "data", "--work", home / "work")
    toys.run_json("prepare", *paths, "--competition", home / SPEECH_CONTEST_FILE, "--folds", 3)
    return home


@pytest.fixture(scope="module")
def fold(home) -> Path:
    """The folder of fold 0 of a run of one epoch."""
    options = ("--kit", home / "toy.toml", "--work", home / "work", *toys.SHORT)
    return Path(toys.run_json("train", "--fold", 0, *options)["folder"]) / "fold-0"


def build(home: Path, *changes: str):
    kit = open_kit(str(home / "toy.toml"), changes=changes)
    return build_initial_model(kit, open_prepared(home / "work"), 0)


def predict(run, videos: list) -> np.ndarray:
    """Return the probabilities of videos, (n, C)."""
    return np.array(run.predict(videos).sort("id")["p"].to_list(), np.float32)


def test_the_run_predicts_from_raw_data_what_its_evaluation_predicted(home, fold):
    oof = pl.read_parquet(fold / "oof.parquet").sort("id")
    run = wbdc.open_run(fold.parent)
    videos = {video.id: video for video in run.videos(home / "data", "labeled")}
    held_out = [videos[name] for name in oof["id"]]
    expected = np.array(oof["p"].to_list(), np.float32)
    np.testing.assert_allclose(predict(run, held_out), expected, rtol=1e-4, atol=1e-6)

    mute = predict(run, [video._replace(modalities={}) for video in held_out])
    assert np.abs(mute - expected).max() > 1e-4, "the model reads the tokens"


@pytest.mark.slow
def test_a_package_predicts_the_same_bits_without_gensim(home, fold, tmp_path, monkeypatch):
    sources = package._source_files
    monkeypatch.setattr(
        package, "_source_files", lambda home: (p for p in sources(home) if "train" not in p.parts)
    )
    monkeypatch.setattr("os.fsync", lambda handle: None)
    contest = open_kit(str(home / "toy.toml")).contest
    options = PackOptions(contest=contest, precision="fp32", facts={}, training_commands=[])
    pack_submission(tmp_path / "packed", [PackedMember("run/fold-0", fold, 1.0)], options)
    packed = tmp_path / "packed"
    assert "gensim" not in (packed / "requirements.txt").read_text()
    assert "gensim==" in (packed / "source" / "requirements.txt").read_text()

    monkeypatch.setitem(sys.modules, "gensim", None)
    videos = list(wbdc.open_run(fold.parent).videos(home / "data", "test"))
    (model,) = packed.rglob("model.json")
    of_fold, of_package = (
        InferenceEngine([folder], [1.0], torch.device("cpu"), torch.float32, 1).predict(videos)
        for folder in (fold, model.parent)
    )
    assert np.array_equal(of_package.probabilities, of_fold.probabilities)


def test_vectors_are_learned_before_the_training_and_then_trained(home, fold):
    initial, again = build(home), build(home)
    weights = initial.model.state_dict()
    assert 100 < len(weights[HASHES]) == len(weights[VECTORS]) - 1
    for name, tensor in again.model.state_dict().items():
        assert tensor.equal(weights[name]), name
    sentence = f"word2vec on the data: vectors of the {len(weights[HASHES])} tokens that occur at"
    assert initial.weights["modality.speech"].startswith(sentence)

    trained = load_file(fold / "model.safetensors")
    assert trained[HASHES].equal(weights[HASHES])
    assert not trained[VECTORS].equal(weights[VECTORS])


def test_a_training_starts_from_the_vectors_of_a_pretraining_with_the_same_tokens(home, fold):
    initial = build(home)
    start_from(initial, fold)
    trained = load_file(fold / "model.safetensors")
    assert initial.model.state_dict()[VECTORS].equal(trained[VECTORS])
    with pytest.raises(UsageFault, match="pretrained with another vocabulary of speech"):
        start_from(build(home, "modality.speech.min_count=3"), fold)


@pytest.mark.parametrize("tiny", [False, True])
def test_the_kit_beside_the_data_is_valid(home, tiny):
    kit = open_kit(str(home / SPEECH_KIT_FILE), tiny=tiny)
    assert kit.tables["modality"]["speech"] == {"use": "word2vec", "steps": 64}
    assert kit.contest.modalities == {"speech": "speech/{split}/{id}.txt"}


def test_towers_and_files_that_do_not_fit_are_refused(home, tmp_path):
    change = 'modality.speech={use="features"}'
    message = r"reads features, and the contest's files .*txt' hold tokens; use one of word2vec"
    with pytest.raises(UsageFault, match=message):
        open_kit(str(home / "toy.toml"), changes=(change,))
    contest = (home / SPEECH_CONTEST_FILE).read_text()
    (tmp_path / SPEECH_CONTEST_FILE).write_text(contest.replace(".txt", ".npy"))
    (tmp_path / "toy.toml").write_text((home / "toy.toml").read_text())
    message = r"'word2vec' reads tokens, and the contest's files .*npy' hold features; use one of f"
    with pytest.raises(UsageFault, match=message):
        open_kit(str(tmp_path / "toy.toml"))


def test_a_training_without_gensim_names_the_command(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    result = toys.wbdc(
        *("train", "--kit", home / "toy.toml", "--work", home / "work", "--fold", 1, *toys.SHORT)
    )
    assert result.exit_code == 7
    assert "pip install 'wbdc[word2vec]'" in result.stderr
