"""A contest with sound through the command line, from the raw data to predictions."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import toys
from safetensors.torch import load_file

import wbdc
from wbdc.core.errors import UsageFault
from wbdc.prepare.dataset import open_prepared
from wbdc.prepare.demo.sounds import SOUND_CONTEST_FILE, SOUND_KIT_FILE, SOUND_WIDTH
from wbdc.prepare.demo.synthetic_contest import generate_contest
from wbdc.report.collect.modalities import ablations, modality_names
from wbdc.train.kit import open_kit
from wbdc.train.runs import open_run

AUDIO = f'[modality.audio]\nuse = "features"\nwidth = {SOUND_WIDTH}\nsteps = 4\n'


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Forty synthetic videos with sound, prepared, beside the toy kit with sound."""
    home = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        generate_contest(home, videos=40, sound=True)
    text = toys.KIT.replace('"wechat2022"', f'"./{SOUND_CONTEST_FILE}"')
    (home / "toy.toml").write_text(text + AUDIO)
    paths = ("--data", home / "data", "--work", home / "work")
    toys.run_json("prepare", *paths, "--competition", home / SOUND_CONTEST_FILE, "--folds", 3)
    return home


def train(home: Path, *words: object) -> dict:
    options = ("--kit", home / "toy.toml", "--work", home / "work", *toys.SHORT)
    return toys.run_json("train", "--fold", 0, *options, *words)


@pytest.fixture(scope="module")
def trained(home) -> dict:
    return train(home)


def probabilities(table: pl.DataFrame) -> np.ndarray:
    """Return the probabilities of predictions, (n, C), sorted by id."""
    return np.array(table.sort("id")["p"].to_list(), np.float32)


def test_the_run_predicts_from_raw_data_what_its_evaluation_predicted(home, trained):
    folder = Path(trained["folder"])
    oof = pl.read_parquet(folder / "fold-0" / "oof.parquet")
    run = wbdc.open_run(folder)
    videos = {video.id: video for video in run.videos(home / "data", "labeled")}
    held_out = [videos[name] for name in oof["id"]]
    predicted = probabilities(run.predict(held_out))
    expected = probabilities(oof)
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-6)

    mute = probabilities(run.predict([v._replace(modalities={}) for v in held_out]))
    assert np.abs(mute - expected).max() > 1e-4, "the model listens"


def test_an_ablation_trains_without_sound_and_is_reported(home, trained):
    ablated = train(home, "--without", "audio")
    assert ablated["run"] != trained["run"]
    run = open_run(home / "work", trained["run"], "train")
    (row,) = ablations(home / "work", run)
    assert (row["run"], row["without"]) == (ablated["run"], "audio")


def test_reports_name_the_modalities_of_each_video(home):
    prepared = open_prepared(home / "work")
    table = prepared.read_split("labeled", ["id", "audio"])
    names = modality_names(prepared, table["id"].to_list())
    assert [name.endswith("audio") for name in names] == (table["audio"] > 0).to_list()
    assert {"title+asr+ocr+frames+audio", "title+asr+ocr+frames"} <= {*names}


def test_the_tower_of_the_guide_trains_and_is_rebuilt(home):
    page = Path(__file__).parents[2] / "docs" / "modalities.md"
    *_, block = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)
    (home / "one_layer.py").write_text(block)
    tower = f'modality.audio={{use="./one_layer.py", width={SOUND_WIDTH}, steps=3, dim=4}}'
    report = train(home, "--set", tower)
    run = wbdc.open_run(report["folder"])
    tensors = load_file(Path(report["folder"]) / "fold-0" / "model.safetensors")
    assert tensors["modalities.audio.tower.layer.0.weight"].shape == (4, SOUND_WIDTH)
    video = next(iter(run.videos(home / "data", "labeled")))
    assert probabilities(run.predict([video])).shape == (1, len(run.classes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('competition="wechat2022"', "has no modality 'audio' beside text and frames"),
        ('modality.sound.use="features"', "has no modality 'sound'.*; did you mean|it has audio"),
        ('modality={audio="features"}', "modality.audio takes a table like"),
        ("modality.audio.wide=3", "modality 'features' has no setting 'wide'"),
        ('modality.audio.use="hum"', "no modality called 'hum'"),
        ('pooling.use="first_token"', "pooling 'first_token' takes text and frames only"),
        (
            'modality.audio={use="vggish"}',
            "'vggish' reads sound, and the contest's files .*npy' hold features; use one of feat",
        ),
    ],
)
def test_kits_that_do_not_fit_are_refused(home, change, message):
    with pytest.raises(UsageFault, match=message):
        open_kit(str(home / "toy.toml"), changes=(change,))


@pytest.mark.parametrize("tiny", [False, True])
def test_the_kit_beside_the_data_is_valid(home, tiny):
    kit = open_kit(str(home / SOUND_KIT_FILE), tiny=tiny)
    assert kit.tables["modality"]["audio"] == {"use": "features", "width": SOUND_WIDTH}
    assert kit.contest.modalities == {"audio": "audio/{split}/{id}.npy"}


def test_an_unknown_ablation_names_those_of_the_kit(home):
    result = toys.wbdc(
        *("train", "--kit", home / "toy.toml", "--work", home / "work", "--fold", 0),
        *("--without", "smell"),
    )
    assert result.exit_code == 2
    assert "--without takes text or frames or audio with kit toy, not 'smell'" in result.stderr


@pytest.fixture(scope="module")
def wav_home(tmp_path_factory) -> Path:
    """Forty synthetic videos with sound in .wav files, prepared."""
    pytest.importorskip("av")
    home = tmp_path_factory.mktemp("wav")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        generate_contest(home, videos=40, sound=True, wav=True)
    (home / "toy.toml").write_text(
        toys.KIT.replace('"wechat2022"', f'"./{SOUND_CONTEST_FILE}"')
        + f"[modality.audio]\nuse = 'vggish'\n{TOY_VGGISH}"
    )
    paths = ("--data", home / "data", "--work", home / "work")
    toys.run_json("prepare", *paths, "--competition", home / SOUND_CONTEST_FILE, "--folds", 3)
    return home


TOY_VGGISH = """pretrained = false
frames = 32
mels = 16
steps = 3
channels = 2
hidden = 8
dim = 4
"""


@pytest.mark.slow
def test_a_tower_of_sound_trains_and_predicts_from_raw_files(wav_home):
    folder = Path(train(wav_home)["folder"])
    oof = pl.read_parquet(folder / "fold-0" / "oof.parquet")
    run = wbdc.open_run(folder)
    videos = {video.id: video for video in run.videos(wav_home / "data", "labeled")}
    predicted = probabilities(run.predict([videos[name] for name in oof["id"]]))
    np.testing.assert_allclose(predicted, probabilities(oof), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["vggish", "ast"])
@pytest.mark.parametrize("tiny", [False, True])
def test_the_kits_beside_wav_files_are_valid(wav_home, name, tiny):
    kit = open_kit(str(wav_home / f"{name}.toml"), tiny=tiny)
    tower = kit.tables["modality"]["audio"]
    assert tower["use"] == name
    assert ("model" in tower) == (name == "ast" and not tiny)
    assert kit.contest.modalities == {"audio": "audio/{split}/{id}.wav"}


def test_a_tower_of_features_is_refused_for_sound_files(wav_home):
    change = 'modality.audio={use="features"}'
    message = r"reads features, and the contest's files .*wav' hold sound; use one of ast, vggish"
    with pytest.raises(UsageFault, match=message):
        open_kit(str(wav_home / "toy.toml"), changes=(change,))
