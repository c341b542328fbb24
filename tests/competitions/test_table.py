"""A contest that a TOML file describes: what it reads, scores and writes, and the sentence for each
mistake in it.
"""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import small
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from wbdc.competitions import NO_FRAMES, Limits, open_competition
from wbdc.core.errors import DataFault, ResultFault, UsageFault
from wbdc.core.findings import Findings
from wbdc.data.archive import read_images

TOML = """
labeled = "train.csv"
test = "test.csv"
id = "vid"
text = ["headline", "tags"]
label = "genre"
classes = ["news", "comedy", "drama"]
"""
TRAIN = 'vid,headline,tags,genre\na.mp4,Hello,#x,news\nb,"Two, three",,comedy\n'
TEST = "vid,headline,tags\nc,Hi,#y\n"


def write_contest(folder: Path, more: str = "", toml: str = TOML, **tables: str) -> Path:
    """Write a contest and its tables; {"train_csv": text} is train.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my.toml").write_text(toml + more)
    for name, text in {"train_csv": TRAIN, "test_csv": TEST, **tables}.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder / "my.toml"


def read_videos(folder: Path, split: str, findings: Findings | None = None) -> list:
    contest = open_competition(str(folder / "my.toml"))
    return list(contest.videos(folder, split, findings or Findings()))


def test_a_table_is_read_as_it_stands(tmp_path):
    contest = open_competition(str(write_contest(tmp_path)))
    assert contest.name == "./my.toml"
    assert contest.splits(tmp_path) == ["labeled", "test"]
    assert contest.classes(tmp_path) == ["comedy", "drama", "news"]
    assert (contest.fields, contest.label_key, contest.limits) == (
        ("headline", "tags"),
        "genre",
        None,
    )
    first, second = contest.videos(tmp_path, "labeled", Findings())
    assert first == ("a.mp4", {"headline": "Hello", "tags": "#x"}, "news", NO_FRAMES, {})
    assert second == ("b", {"headline": "Two, three", "tags": ""}, "comedy", NO_FRAMES, {})
    assert [v.label for v in contest.videos(tmp_path, "test", Findings())] == [None]


def test_tsv_and_json_lines_hold_the_same_videos(tmp_path):
    write_contest(tmp_path)
    rows = [
        {"vid": "a.mp4", "headline": "Hello", "tags": "#x", "genre": "news"},
        {"vid": "b", "headline": "Two, three", "tags": None, "genre": "comedy"},
    ]
    expected = read_videos(tmp_path, "labeled")
    toml = TOML.replace("train.csv", "train.jsonl")
    lines = "\n".join(map(json.dumps, rows))
    write_contest(tmp_path, toml=toml, train_jsonl=lines)
    assert read_videos(tmp_path, "labeled") == expected

    cells = "\n".join("\t".join(value or "" for value in row.values()) for row in rows)
    toml = TOML.replace("train.csv", "train.tsv")
    write_contest(tmp_path, toml=toml, train_tsv="\ufeffvid\theadline\ttags\tgenre\n" + cells)
    assert read_videos(tmp_path, "labeled") == expected


def test_columns_that_may_group_items_are_those_of_the_split(tmp_path):
    table = (
        "vid,headline,tags,genre,part,channel\na,A,,news,train,c1\nb,B,,,test,c2\nd,,,news,train,\n"
    )
    split = 'split = { column = "part", labeled = "train", test = "test" }'
    toml = TOML.replace("test.csv", "train.csv")
    contest = open_competition(str(write_contest(tmp_path, split, toml=toml, train_csv=table)))
    labeled = [("a", {"headline": "A", "channel": "c1"}), ("d", {})]
    assert list(contest.column_values(tmp_path, "labeled")) == labeled
    test = [("b", {"headline": "B", "channel": "c2"})]
    assert list(contest.column_values(tmp_path, "test")) == test


def test_rows_of_a_shared_table_are_split_by_their_label(tmp_path):
    shared = TRAIN + "c,Hi,#y,\n"
    write_contest(tmp_path, toml=TOML.replace("test.csv", "train.csv"), train_csv=shared)
    assert [v.id for v in read_videos(tmp_path, "labeled")] == ["a.mp4", "b"]
    assert [v.id for v in read_videos(tmp_path, "test")] == ["c"]


def test_a_column_names_the_split(tmp_path):
    table = "vid,headline,tags,genre,part\na,,,news,train\nb,,,news,val\nc,,,,test\nd,,,,more\n"
    split = 'split = { column = "part", labeled = ["train", "val"], test = "test" }'
    toml = TOML.replace("test.csv", "train.csv")
    write_contest(tmp_path, split, toml=toml, train_csv=table)
    assert [v.id for v in read_videos(tmp_path, "labeled")] == ["a", "b"]
    assert [v.id for v in read_videos(tmp_path, "test")] == ["c"]


def test_labels_may_be_in_a_file_of_their_own(tmp_path):
    table = "vid,headline,tags\na,,\nb,,\n"
    labels = "vid,genre\nb,drama\na,news\nz,news\n"
    write_contest(tmp_path, 'labels = "labels.csv"', train_csv=table, labels_csv=labels)
    assert [(v.id, v.label) for v in read_videos(tmp_path, "labeled")] == [
        ("a", "news"),
        ("b", "drama"),
    ]


@pytest.mark.parametrize("column", [True, False])
def test_frames_are_an_image_or_an_archive(tmp_path, column):
    """One picture is a video of one frame; an empty cell, or a path that leaves the folder, is a
    video without frames.
    """
    names = ["a.jpg", "b.zip", "", "../x.jpg"] if column else ["p/a.jpg"] * 4
    ids = "abcd"
    (tmp_path / "a.jpg").write_bytes(small.photos(1)[0])
    small.pack(tmp_path / "b.zip", small.frames(small.photos(3)))
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_bytes(small.photos(1)[0])
    table = "vid,headline,tags,genre,file\n"
    table += "".join(f"{i},,,news,{name}\n" for i, name in zip(ids, names, strict=True))
    write_contest(tmp_path, f'frames = "{"file" if column else "p/{id}.jpg"}"', train_csv=table)

    contest, findings = open_competition(str(tmp_path / "my.toml")), Findings()
    videos = list(contest.videos(tmp_path, "labeled", findings))
    sources = [contest.source(tmp_path, "labeled", video_id) for video_id in ids]
    assert sources == [v.source for v in videos]
    files = [(file.id, file.path) for file in contest.frame_files(tmp_path, "labeled")]
    if not column:
        assert files == [("a", "p/a.jpg")]
        return
    assert files == [("a", "a.jpg"), ("b", "b.zip")]
    assert findings.counts["archive.escape"] == 1
    assert sources[2:] == [NO_FRAMES] * 2
    reading = Findings()
    assert [len(read_images(source, 8, reading)) for source in sources] == [1, 3, 0, 0]
    assert not reading.counts


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ('metrc = "accuracy"', "my.toml has no setting 'metrc'; did you mean 'metric'"),
        ('metric = "acuracy"', "metric = 'acuracy' is not known; did you mean 'accuracy'"),
        ("frames = 3", "frames = 3 is not of the type"),
        ('result = { header = "yes" }', "result.header is not"),
        ("result = { headr = true }", "result has no setting 'headr'; did you mean 'header'"),
        ('result = { columns = ["a"] }', "result.columns must name two columns"),
        ("limits = { items = 0, seconds = 1.0 }", "limits.items = 0 is not above 0"),
        ("limits = { items = 5 }", "limits.seconds is missing"),
        ('unlabeled = "more.xlsx"', "'more.xlsx' is not a table; its name must end in .csv"),
        ('unlabeled = "more.parquet"', "a package has no Parquet reader; `wbdc init"),
        ('unlabeled = "train.csv"', "unlabeled shares a table with another split"),
        ('split = { column = "part", labeled = "train" }', "split.test is missing"),
        ('metric = "mean_f1"', 'parents and metric = "mean_f1" belong together'),
        ('metric = "mean_f1"\nparents = { news = "fact" }', "parents has no parent of 'comedy'"),
        ("classes = []", "Cannot overwrite a value"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(tmp_path, more, sentence):
    path = write_contest(tmp_path, more)
    with pytest.raises(UsageFault) as caught:
        open_competition(str(path))
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('id = "vid"\n', "", "my.toml needs a value for 'id'"),
        ('"news", "comedy"', '"news", "news"', "classes names 'news' twice"),
        ('["news", "comedy", "drama"]', "[1, 2]", r"classes\[0\] is not a string"),
        ('["news", "comedy", "drama"]', '["news"]', "must name two classes or more"),
    ],
)
def test_a_missing_or_wrong_setting_is_one_sentence(tmp_path, old, new, sentence):
    path = write_contest(tmp_path, toml=TOML.replace(old, new))
    with pytest.raises(UsageFault, match=sentence):
        open_competition(str(path))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("vid,headlines,tags,genre\n", "no column 'headline'; did you mean 'headlines'"),
        ("vid,headline,tags,tags,genre\n", "has two columns 'tags'"),
        ("", "is empty"),
        (TRAIN + "c,Hi\n", "line 4: the number of cells is 2, but the header has 4"),
        (TRAIN + 'c,"Hi,x,news\n', "line"),
        (TRAIN + "a b,Hi,x,news\n", "line 4: vid = 'a b' is not an id"),
    ],
)
def test_a_broken_table_is_one_sentence(tmp_path, table, sentence):
    write_contest(tmp_path, train_csv=table)
    with pytest.raises(DataFault, match=sentence):
        read_videos(tmp_path, "labeled")


def test_broken_encodings_and_lines_are_named(tmp_path):
    write_contest(tmp_path)
    (tmp_path / "train.csv").write_bytes(TRAIN.encode() + b"c,\xff,,news\n")
    with pytest.raises(DataFault, match="is not UTF-8"):
        read_videos(tmp_path, "labeled")
    (tmp_path / "train.csv").unlink()
    with pytest.raises(DataFault, match="train.csv is missing"):
        read_videos(tmp_path, "labeled")

    toml = TOML.replace("train.csv", "train.jsonl")
    write_contest(tmp_path, toml=toml, train_jsonl='{"vid": "a"}\n[]\n')
    with pytest.raises(DataFault, match="line 2 is not a JSON object"):
        read_videos(tmp_path, "labeled")
    write_contest(tmp_path, toml=toml, train_jsonl='{"vid": "a", "tags": "", "genre": ""}\n')
    with pytest.raises(DataFault, match="has no key 'headline'"):
        read_videos(tmp_path, "labeled")
    write_contest(tmp_path, toml=toml, train_jsonl='{"vid": "a"}\n{"vid"\n')
    with pytest.raises(DataFault, match="line 2: "):
        read_videos(tmp_path, "labeled")


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("b,again,,news\n", "id.twice"),
        ("d,Hi,,sport\n", "label.unknown"),
        ("d,Hi,,\n", "label.missing"),
    ],
)
def test_wrong_rows_are_counted_and_refused(tmp_path, row, code):
    from wbdc.prepare.check import check_data, refuse_invalid

    path = write_contest(tmp_path, train_csv=TRAIN + row)
    findings = check_data(tmp_path, open_competition(str(path))).findings.report()
    assert set(findings) == {code}
    with pytest.raises(DataFault):
        refuse_invalid(findings)


def draw_labels(classes: list[str], rows: int = 300) -> tuple[list[str], list[str]]:
    """Draw a truth and predictions that agree in about half of the rows."""
    draw = random.Random(0)
    truth = [draw.choice(classes[:-1]) for _ in range(rows)]
    predictions = [label if draw.random() < 0.5 else draw.choice(classes) for label in truth]
    return truth, predictions


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "micro_f1", "weighted_f1"])
def test_metrics_equal_those_of_scikit_learn(tmp_path, metric):
    classes = ["comedy", "drama", "news", "never", "rare"]
    toml = TOML.replace('["news", "comedy", "drama"]', json.dumps(classes))
    contest = open_competition(str(write_contest(tmp_path, f'metric = "{metric}"', toml=toml)))
    truth, predictions = draw_labels(classes)
    assert contest.score_components == (metric,)
    for labels in (classes, None, classes[:3]):
        expected = (
            accuracy_score(truth, predictions)
            if metric == "accuracy"
            else f1_score(
                truth,
                predictions,
                labels=labels,
                average=metric.removesuffix("_f1"),
                zero_division=0,
            )
        )
        score = contest.score(truth, predictions, labels)
        assert score == pytest.approx({metric: expected, "mean": expected}, abs=1e-12)


def test_mean_f1_averages_the_levels_as_scikit_learn_does(tmp_path):
    parents = {"news": "fact", "sport": "fact", "comedy": "fiction", "drama": "fiction"}
    toml = TOML.replace('["news", "comedy", "drama"]', json.dumps(list(parents)))
    table = ", ".join(f'{label} = "{parent}"' for label, parent in parents.items())
    more = f'metric = "mean_f1"\nparents = {{ {table} }}'
    contest = open_competition(str(write_contest(tmp_path, more, toml=toml)))
    assert {label: contest.parent_class(label) for label in parents} == parents
    truth, predictions = draw_labels(list(parents))
    score = contest.score(truth, predictions, list(parents))
    expected = {
        f"level{number}_{average}": f1_score(*pair, average=average, labels=labels, zero_division=0)
        for number, pair, labels in (
            (1, [[parents[c] for c in row] for row in (truth, predictions)], ["fact", "fiction"]),
            (2, [truth, predictions], list(parents)),
        )
        for average in ("micro", "macro")
    }
    assert contest.score_components == tuple(expected)
    assert score == pytest.approx({**expected, "mean": np.mean(list(expected.values()))})


def draw_probabilities(classes: int, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Draw class codes, and rounded probabilities with ties that favor them a little."""
    draw = np.random.default_rng(classes)
    truth = draw.integers(classes, size=rows)
    scores = draw.random((rows, classes)).round(1) + 0.1
    scores[np.arange(rows), truth] += 0.3
    return truth, scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("metric", ["log_loss", "auc"])
def test_scores_of_probabilities_equal_those_of_scikit_learn(tmp_path, metric, classes):
    names = list("wxyz"[:classes])
    order = names if classes == 2 else names[::-1]  # of two, the last is the positive class
    toml = TOML.replace('["news", "comedy", "drama"]', json.dumps(order))
    contest = open_competition(str(write_contest(tmp_path, f'metric = "{metric}"', toml=toml)))
    truth, probabilities = draw_probabilities(classes)
    if metric == "log_loss":
        expected = {metric: (loss := log_loss(truth, probabilities)), "mean": -loss}
    else:
        scores = probabilities[:, 1] if classes == 2 else probabilities
        area = roc_auc_score(truth, scores, multi_class="ovr")
        expected = {metric: area, "mean": area}
    true_ids = [names[code] for code in truth]
    assert contest.needs_probabilities
    assert contest.score_components == (metric,)
    for official in (False, True):
        score = contest.score_probabilities(true_ids, probabilities, names, official=official)
        assert score == pytest.approx(expected, abs=1e-12)
    with pytest.raises(UsageFault, match=f"{metric} scores probabilities, not classes"):
        contest.score(true_ids, true_ids)


def test_scores_of_probabilities_at_their_limits(tmp_path):
    loss = open_competition(str(write_contest(tmp_path / "a", 'metric = "log_loss"')))
    probabilities = np.array([[1.0, 0.0]])
    assert loss.score_probabilities(["news"], probabilities, ["news", "drama"])["log_loss"] < 1e-12
    wrong = loss.score_probabilities(["drama"], probabilities, ["news", "drama"])["log_loss"]
    unknown = loss.score_probabilities(["comedy"], probabilities, ["news", "drama"])["log_loss"]
    assert wrong == unknown == pytest.approx(-np.log(np.finfo(float).eps))
    area = open_competition(str(write_contest(tmp_path / "b", 'metric = "auc"')))
    assert area.score_probabilities(["news"], probabilities, ["news", "drama"])["mean"] == 0.5


def test_a_contest_of_classes_scores_the_most_probable_ones(tmp_path):
    contest = open_competition(str(write_contest(tmp_path, 'metric = "macro_f1"')))
    names = contest.classes(tmp_path)
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    truth = [names[0], names[1]]
    for official in (False, True):
        score = contest.score_probabilities(truth, probabilities, names, official=official)
        assert score == contest.score(truth, [names[0], names[2]], None if official else names)


def test_probabilities_are_written_for_every_class_and_read_back(tmp_path):
    contest = open_competition(str(write_contest(tmp_path, 'metric = "log_loss"')))
    known = ["comedy", "news"]  # of the model, which has seen no drama
    rows = np.array([[0.25, 0.75], [0.6, 0.4]], np.float32)
    contest.write_predictions(["a", "b"], rows, known, tmp_path / "r.csv")
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert lines[:2] == ["vid,news,comedy,drama", "a,0.75,0.25,0"]
    classes = contest.classes(tmp_path)
    assert contest.read_result(tmp_path / "r.csv", ["a", "b"], classes) == ["news", "comedy"]
    (tmp_path / "r.csv").write_text("vid,news,comedy,drama\na,0.5,nan,0\nb,0.5,0.5,0\n")
    with pytest.raises(ResultFault, match="a has no probabilities"):
        contest.read_result(tmp_path / "r.csv", ["a", "b"], classes)


def test_two_classes_may_have_one_column_of_probabilities(tmp_path):
    toml = TOML.replace('["news", "comedy", "drama"]', '["no", "yes"]')
    more = 'metric = "auc"\nresult = { columns = ["vid", "score"] }'
    contest = open_competition(str(write_contest(tmp_path, more, toml=toml)))
    rows = np.array([[0.75, 0.25], [0.25, 0.75]], np.float32)
    contest.write_predictions(["a", "b"], rows, ["no", "yes"], tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text() == "vid,score\na,0.25\nb,0.75\n"
    assert contest.read_result(tmp_path / "r.csv", ["a", "b"], ["no", "yes"]) == ["no", "yes"]


def test_a_result_is_read_back(tmp_path):
    more = 'result = { columns = ["file", "tag"], separator = ";" }\n'
    contest = open_competition(str(write_contest(tmp_path, more)))
    ids, labels = ["a;1", 'b"2', "c"], ["news", "comedy", "news"]
    contest.write_result(ids, labels, tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text() == 'file;tag\n"a;1";news\n"b""2";comedy\nc;news\n'
    assert contest.read_result(tmp_path / "r.csv", ids, ["news", "comedy"]) == labels

    plain = open_competition(str(write_contest(tmp_path, "result = { header = false }\n")))
    plain.write_result(["a"], ["news"], tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text() == "a,news\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,news\nb,news\n", "does not start with the header `vid,genre`"),
        ("vid,genre\na,news\nb,news\nb,news\n", "names ids twice: 1, first b"),
        ("vid,genre\na,news\n", "misses ids: 1, first b"),
        ("vid,genre\na,news\nb,new\n", "names unknown classes: 1, first b → new"),
        ("vid,genre\na,news\nb,news\nz,news\n", "names unknown ids: 1, first z"),
        ("vid,genre\na,news\nb\n", "row 2 is not `vid,genre`"),
        ("vid,genre\na,news\nb,news", "ends inside a line"),
    ],
)
def test_a_wrong_result_is_refused(tmp_path, text, sentence):
    contest = open_competition(str(write_contest(tmp_path)))
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(ResultFault, match=sentence):
        contest.read_result(tmp_path / "r.csv", ["a", "b"], ["news", "comedy"])


def test_limits_and_paths_of_the_judge(tmp_path):
    more = 'limits = { items = 5, seconds = 2.5 }\njudge = { data = "/in" }'
    contest = open_competition(str(write_contest(tmp_path, more)))
    assert contest.limits == Limits(items=5, seconds=2.5)
    assert contest.judge_paths == ("/in", "result.csv")
