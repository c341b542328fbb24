"""The templates of docs/write-a-plug.md run as they stand."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import small
import torch
import toys

from wbdc.cli.kits import describe_kit
from wbdc.competitions import open_competition
from wbdc.core.errors import ResultFault
from wbdc.core.findings import Findings
from wbdc.nets.model import build_model
from wbdc.prepare.dataset import open_prepared
from wbdc.train.initial_model import build_initial_model
from wbdc.train.kit import open_kit

HOME = Path(__file__).parents[2]
PAGE = HOME / "docs" / "write-a-plug.md"
GENRES = ("comedy", "drama", "news")
TINY = (
    "--set",
    'trunk={architecture={model_type="bert",hidden_size=16,num_hidden_layers=1,'
    "num_attention_heads=2,intermediate_size=32,max_position_embeddings=64}}",
    "--set",
    "text.vocabulary={min_count=2,max_size=400}",
    "--set",
    "text.fields={title=14,asr=8,ocr=6}",
    "--set",
    "text.length=32",
    "--set",
    "train.epochs=1",
    "--set",
    "train.batch=4",
)


@pytest.fixture(scope="module")
def templates(tmp_path_factory) -> Path:
    """A folder with every code block that begins with a file name."""
    folder = tmp_path_factory.mktemp("templates")
    blocks = re.findall(r"^```\w+\n# ([\w.]+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    for name, text in blocks:
        (folder / name).write_text(text)

    assert {name for name, _ in blocks} == {
        "mykit.toml",
        "center.py",
        "poly.py",
        "drop_frames.py",
        "part_of_epoch.py",
        "step_decay.py",
        "gated.py",
        "smooth_max.py",
        "mlp.py",
        "small_cnn.py",
        "mycontest.py",
        "myclips.toml",
    }
    return folder


def test_templates_follow_the_rules_of_the_tree(templates):
    subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", HOME / "pyproject.toml", templates],
        check=True,
    )
    assert len((templates / "mycontest.py").read_text().splitlines()) <= 75


def test_the_kit_trains_and_predicts_with_seven_plugs(templates, fresh):
    kit = ("--kit", templates / "mykit.toml", "--work", fresh, *TINY, "--threads", 1)
    trained = toys.run_json("train", *kit, "--fold", 0)
    saved = {path.name for path in Path(trained["folder"], "fold-0").glob("*.py")}
    plugs = {"center.py", "poly.py", "drop_frames.py", "part_of_epoch.py", "step_decay.py"}
    assert saved == plugs | {"gated.py", "small_cnn.py"}
    steps = trained["folds"]["0"]["steps"]
    assert steps == round(0.8 * 22) // 4, "an epoch reads a part of the 22 training videos"

    out = fresh / "result.csv"
    toys.run_json("predict", "--run", trained["run"], "--work", fresh, "--out", out, "--threads", 1)
    assert out.is_file()


def test_the_pooling_is_a_smooth_maximum_of_the_real_tokens(templates):
    tables = toys.blueprint() | {"pooling": {"use": "./smooth_max.py", "sharpness": 2.0}}
    model, batch = build_model(tables, templates).eval(), toys.batch()
    torch.testing.assert_close(model.logits(toys.pad(batch, 5, 2)), model.logits(batch))
    fused = model(batch)
    for row in range(len(batch)):
        tokens = torch.cat([t.x[row][t.mask[row]] for t in (fused.text, fused.frames)])
        expected = (2 * tokens).exp().mean(0).log() / 2
        torch.testing.assert_close(fused.pooled[row], expected)


def test_the_head_is_found_beside_a_kit_saved_shown_and_built(templates, kit, ready, tmp_path):
    (tmp_path / "mine.toml").write_text(kit.read_text() + '[head]\nuse = "./mlp.py"\nhidden = 4\n')
    (tmp_path / "mlp.py").write_text((templates / "mlp.py").read_text())
    mine = open_kit(str(tmp_path / "mine.toml"))
    assert list(mine.plugs()) == ["mlp.py"]
    assert "    hidden = 4" in [line for line, _ in describe_kit(mine)]
    model = build_initial_model(mine, open_prepared(ready), 0).model
    assert model.head.layers[0].out_features == 4


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Data of the contest of the page: six labeled and three test videos."""
    root = tmp_path_factory.mktemp("clips")
    with (root / "videos.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("id", "split", "headline", "speech", "genre"))
        for i in range(9):
            split, genre = ("train", GENRES[i % 3]) if i < 6 else ("final", "")
            table.writerow((f"c{i}", split, f"{GENRES[i % 3]} {i}", "words", genre))
            small.pack(root / split / f"c{i}.zip", small.frames(small.photos(1, seed=i)))
    return root


def test_the_contest_is_prepared_and_its_kit_opens(templates, clips, tmp_path):
    contest = templates / "mycontest.py"
    common = ("--data", clips, "--work", tmp_path / "work", "--folds", 2, "--threads", 1)
    toys.run_json("prepare", *common, "--competition", contest)
    kit = open_kit(str(templates / "myclips.toml"))
    assert list(kit.tables["text"]["fields"]) == ["headline", "speech"]


def test_the_contest_reads_its_own_result(templates, tmp_path):
    contest = open_competition(str(templates / "mycontest.py"))
    path = tmp_path / "result.csv"
    contest.write_result(["a", "b"], ["news", "drama"], path)
    assert path.read_text() == "video,genre\na,news\nb,drama\n"
    assert contest.read_result(path, ["b", "a"], GENRES) == ["drama", "news"]
    assert contest.score(["news", "drama"], ["news", "news"])["mean"] == 0.5
    with pytest.raises(ResultFault, match="unknown genres: news"):
        contest.read_result(path, ["a", "b"], GENRES[:2])


def test_the_contest_without_code_reads_its_table(tmp_path):
    page = (HOME / "docs" / "table-contest.md").read_text(encoding="utf-8")
    (tmp_path / "data.toml").write_text(re.search(r"^```toml\n(.*?)^```$", page, re.M | re.S)[1])
    (tmp_path / "data.csv").write_text(re.search(r"^```\n(id,.*?)^```$", page, re.M | re.S)[1])
    contest = open_competition(str(tmp_path / "data.toml"))
    labeled = list(contest.videos(tmp_path, "labeled", Findings()))
    assert [(v.id, v.label) for v in labeled] == [("v1", "comedy"), ("v2", "news")]
    assert labeled[1].fields == {"headline": "Rain all week", "speech": "it will rain"}
    assert labeled[0].source.path == tmp_path / "clips" / "v1.zip"
    assert [v.id for v in contest.videos(tmp_path, "test", Findings())] == ["v3"]
