"""A contest in a file of the user's own: found from any folder, saved with all that is made for it, and verified."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import small
import toys

from wbdc.competitions import open_competition
from wbdc.core.errors import UsageFault

SOURCE = Path(__file__).with_name("shorts.py")
GENRES = ("comedy", "drama", "news")
TRAIN_VIDEOS, FINAL_VIDEOS = 18, 6


def write_data(root: Path) -> Path:
    """Write the table of labelled and test videos, and an archive of one frame each."""
    root.mkdir()
    with (root / "shorts.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("id", "split", "headline", "speech", "tags", "genre"))
        for i in range(TRAIN_VIDEOS + FINAL_VIDEOS):
            split, genre = ("train", GENRES[i % 3]) if i < TRAIN_VIDEOS else ("final", "")
            word = GENRES[i % 3]
            table.writerow((f"s{i}", split, f"{word} {i}", f"{word} spoken {i * i}", "#short", genre))
            frames = small.frames(small.photos(1, seed=i))
            small.pack(root / split / f"s{i}.zip", frames)
    return root


@pytest.fixture(scope="module")
def team(tmp_path_factory) -> Path:
    """A team's folder: the data, and elsewhere in it the contest with a kit."""
    home = tmp_path_factory.mktemp("team")
    write_data(home / "data")
    (home / "own").mkdir()
    shutil.copyfile(SOURCE, home / "own" / "shorts.py")
    recipe = toys.KIT.replace('"wechat2022"', '"./shorts.py"').replace('"labeled", "unlabeled"', '"train"')
    recipe = recipe.replace("title = 14, asr = 8, ocr = 6", "headline = 10, speech = 10, tags = 4")
    (home / "own" / "short.toml").write_text(recipe)
    return home


def prepare(home: Path, work: Path) -> dict:
    contest = home / "own" / "shorts.py"
    common = ("--data", home / "data", "--work", work, "--folds", 3, "--threads", 1)
    return toys.told("prepare", *common, "--competition", contest)


@pytest.fixture(scope="module")
def prepared(team, tmp_path_factory) -> Path:
    """A work folder that holds the data, prepared."""
    work = tmp_path_factory.mktemp("prepared") / "work"
    prepare(team, work)
    return work


@pytest.fixture
def work(prepared, tmp_path) -> Path:
    shutil.copytree(prepared / "prepared", tmp_path / "work" / "prepared")
    return tmp_path / "work"


def test_the_example_is_short():
    assert len(SOURCE.read_text().splitlines()) <= 60


def test_prepared_data_hold_the_file_that_defines_the_contest(team, work, tmp_path, monkeypatch):
    from wbdc.prepare.dataset import open_prepared

    monkeypatch.chdir(tmp_path)
    ready = open_prepared(work)
    assert (ready.folder / "shorts.py").read_bytes() == SOURCE.read_bytes()
    assert ready.facts["competition"] == "./shorts.py" == ready.contest.name
    assert ready.contest.classes(team / "data") == list(GENRES)
    assert "shorts.py" in ready.facts["files"]


def test_another_content_of_the_file_is_another_dataset(team, tmp_path):
    home = tmp_path / "team"
    shutil.copytree(team, home)
    first = prepare(home, tmp_path / "work")
    assert prepare(home, tmp_path / "work")["unchanged"]
    with (home / "own" / "shorts.py").open("a") as file:
        file.write("# another rule\n")
    second = prepare(home, tmp_path / "work")
    assert not second["unchanged"] and second["folder"] != first["folder"]


def test_a_damaged_copy_is_named(work):
    copy = next(work.glob("prepared/*/shorts.py"))
    copy.write_text(copy.read_text().replace("comedy", "comedx"))
    result = toys.wbdc("train", "--kit", "dual_stream", "--fold", 0, "--work", work, "--tiny")
    assert result.exit_code == 4 and "shorts.py" in result.stderr


def test_a_contest_changed_while_it_is_prepared_is_refused(team, tmp_path, monkeypatch):
    from wbdc.prepare import build

    shutil.copyfile(SOURCE, tmp_path / "shorts.py")
    contest = open_competition("shorts.py", tmp_path)
    real = build._describe
    change = lambda *given: ((tmp_path / "shorts.py").write_text("# other"), real(*given))[1]  # noqa: E731
    monkeypatch.setattr(build, "_describe", change)
    with pytest.raises(UsageFault, match="was changed while the data were prepared"):
        build.prepare(team / "data", tmp_path / "work", contest, folds=3)


def test_a_contest_that_is_missing_or_states_too_little_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageFault, match="no competition at .*/none.py"):
        open_competition("./none.py")
    (tmp_path / "less.py").write_text("from wbdc.competitions import Competition\nclass Less(Competition):\n    fields = ()\n")
    with pytest.raises(UsageFault, match="Less does not state labelled, test"):
        open_competition("less.py")


def test_an_opened_contest_knows_its_file_from_any_folder(tmp_path, monkeypatch):
    shutil.copyfile(SOURCE, tmp_path / "shorts.py")
    monkeypatch.chdir(tmp_path)
    contest = open_competition("./shorts.py")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert contest.source_hash and contest.file.read_bytes() == SOURCE.read_bytes()
    [copy] = contest.save(tmp_path / "copies")
    assert copy.read_bytes() == SOURCE.read_bytes()
    wechat = open_competition("wechat2022")
    assert (wechat.name, wechat.file, wechat.source_hash, wechat.save(tmp_path)) == ("wechat2022", None, "", [])


def train(home: Path, work: Path, *more: object) -> dict:
    kit = home / "own" / "short.toml"
    return toys.told("train", "--kit", kit, "--fold", 0, "--work", work, "--threads", 1, "--set", "train.epochs=1", *more)


def test_a_run_holds_the_contest_and_its_saved_kit_makes_the_same_run(team, work, tmp_path, monkeypatch):
    from wbdc.train.runs import open_run

    monkeypatch.chdir(tmp_path)
    run = train(team, work)["run"]
    fold = work / "runs" / run / "fold-0"
    assert (fold / "shorts.py").read_bytes() == SOURCE.read_bytes()
    assert open_run(work, run).contest.file == fold / "shorts.py"
    assert "shorts.py" in open_run(work, run).folds()["0"]["files"]
    copy = tmp_path / "kits" / "short.json"  # as in a package: the kit under its own name, the contest beside it
    shutil.copytree(fold, copy.parent)
    (copy.parent / "kit.json").rename(copy)
    assert json.loads(copy.read_text())["competition"] == "./shorts.py"
    assert toys.told("train", "--kit", copy, "--fold", 0, "--work", work, "--threads", 1, "--dry-run")["run"] == run


@pytest.mark.parametrize("kit, sentence", [
    ("dual_stream", "kit dual_stream is for wechat2022, but data .* were prepared for ./shorts.py"),
    ("changed.toml", "kit changed is for .*/shorts.py, which is not the file that data .* were prepared with"),
])  # fmt: skip
def test_a_kit_that_does_not_fit_the_prepared_data_is_one_sentence(team, work, tmp_path, monkeypatch, kit, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shorts.py").write_text(SOURCE.read_text() + "# changed\n")
    shutil.copyfile(team / "own" / "short.toml", tmp_path / "changed.toml")
    result = toys.wbdc("train", "--kit", kit, "--fold", 0, "--work", work, "--dry-run", *(["--tiny"] if kit == "dual_stream" else []))
    assert result.exit_code == 2 and re.search(sentence, result.stderr) and len(result.stderr.splitlines()) == 1
