"""A contest whose annotations are one flat CSV table, which only its plug reads."""

import csv
import json

import small
import toys

PLUG = '''
"""A contest of one CSV table."""

import csv

from wbdc.competitions import Competition, FrameFile, Source, Video


class Flat(Competition):
    """Two classes, one score."""

    fields = ("caption",)
    labeled_split = "train"
    unlabeled_split = None
    test_split = "test"
    limits = None

    def frame_format(self, root):
        return "jpeg"

    def splits(self, root):
        return ["test", "train"]

    def videos(self, root, split, findings, progress=lambda done, total: None):
        with (root / "videos.csv").open() as file:
            for row in csv.DictReader(file):
                if row["split"] == split:
                    fields = {"caption": row["caption"]}
                    source = self.source(root, split, row["id"])
                    yield Video(row["id"], fields, row["label"] or None, source)

    def read_fields(self, item, findings):
        return {"caption": item.get("caption", "")}

    def source(self, root, split, name):
        return Source(root / "frames" / f"{split}-{name}.zip")

    def frame_files(self, root, split):
        for path in sorted((root / "frames").glob(f"{split}-*.zip")):
            yield FrameFile(path.stem.removeprefix(f"{split}-"), path.name, path.stat().st_size, 0)

    def classes(self, root):
        return ["cat", "dog"]

    def score(self, truth, said, classes=None):
        hits = sum(map(str.__eq__, truth, said)) / max(1, len(truth))
        return {"accuracy": hits, "mean": hits}
'''


def write_data(root, captions):
    """Write a table of twelve labeled and three test videos, and their archives."""
    root.mkdir(exist_ok=True)
    with (root / "videos.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("id", "split", "caption", "label"))
        for i in range(15):
            split, label = ("train", ("cat", "dog")[i % 2]) if i < 12 else ("test", "")
            table.writerow((f"v{i}", split, f"{captions} {i}", label))
            small.pack(root / "frames" / f"{split}-v{i}.zip", small.frames(small.photos(2, seed=i)))
    return root


def test_a_flat_table_is_prepared_trained_and_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plug, root = tmp_path / "flat.py", write_data(tmp_path / "data", "一只 猫")
    plug.write_text(PLUG)
    recipe = toys.KIT.replace('"wechat2022"', '"./flat.py"').replace(
        "title = 14, asr = 8, ocr = 6", "caption = 20"
    )
    (tmp_path / "flat.toml").write_text(recipe)

    common = (
        "--data",
        root,
        "--competition",
        "./flat.py",
        "--work",
        tmp_path / "work",
        "--folds",
        3,
        "--threads",
        1,
    )
    first = toys.run_json("prepare", *common)
    assert first["counts"] == {"test": 3, "train": 12}
    assert toys.run_json("prepare", *common)["unchanged"]

    words = (
        "--kit",
        tmp_path / "flat.toml",
        "--fold",
        0,
        "--work",
        tmp_path / "work",
        "--threads",
        1,
    )
    result = toys.wbdc("train", *words, "--set", "train.epochs=1")
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert "accuracy" in result.stdout
    assert "lv1_micro" not in result.stdout

    write_data(root, "两条 狗")
    changed = toys.run_json("prepare", *common)
    assert not changed["unchanged"]
    assert changed["folder"] != first["folder"]


def test_the_answer_to_a_request_uses_the_label_key_of_the_contest(tmp_path):
    import torch

    from wbdc.competitions.wechat2022 import WeChat2022
    from wbdc.serve.calls import serve_calls
    from wbdc.serve.engine import InferenceEngine

    class Other(WeChat2022):
        """The same contest with another name for its classes."""

        label_key = "tag"

    engine = InferenceEngine(
        [toys.member(tmp_path / "m", toys.model())], [1.0], torch.device("cpu"), torch.float32, 1
    )
    call, replies = (
        json.dumps({"id": "a", "frames": str(tmp_path / "none.zip"), "title": "标题"}),
        [],
    )
    for contest in (WeChat2022(), Other()):
        serve_calls(engine, contest, [call], replies.append)
    assert [set(json.loads(reply)) for reply in replies] == [
        {"id", "category_id", "probability"},
        {"id", "tag", "probability"},
    ]
