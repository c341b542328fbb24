"""Annotation files: read strictly, corrected faults are counted, others are refused with their
position; no file crashes the reader.
"""

import json

import pytest
import small

from wbdc.competitions.formats.json_stream import read_records
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import DataFault
from wbdc.core.findings import Findings
from wbdc.prepare.check import check_data, refuse_invalid

ITEM = {
    "id": "20",
    "title": "标题",
    "asr": "说话",
    "ocr": [{"time": 0, "text": "字幕"}],
    "category_id": "0001",
}


def annotation_json(change: dict | None = None, **more: object) -> bytes:
    """Return one annotation with some values changed."""
    return json.dumps([ITEM | (change or {}) | more]).encode()


def videos(data: bytes, folder, split: str = "labeled"):
    """Read `data` as the annotations of a split: videos and what was counted."""
    (folder / "zip_frames").mkdir(exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{split}.json").write_bytes(data)
    findings = Findings()
    return list(WeChat2022().videos(folder, split, findings)), findings


GOOD = json.dumps([ITEM], ensure_ascii=False).encode()
REFUSED = {
    "truncated": (GOOD[:-5], r"labeled.json: Unterminated string starting at line 1 column \d+$"),
    "cut after a comma": (b'[{"id": "1"},\n ', "Expecting value at line 2 column 2$"),
    "trailing comma": (b'[{"id": "1"},\n]', "Expecting value at line 2 column 1$"),
    "empty": (b"", "Expecting value at line 1 column 1$"),
    "no list": (json.dumps(ITEM).encode(), "holds an object, not a list of items$"),
    "a text": (b'"x"', "holds a string, not a list of items$"),
    "null": (b"null", "holds null, not a list of items$"),
    "rubbish after the end": (GOOD + b" #", r"Extra data at line 1 column \d+$"),
    "UTF-16": (
        GOOD.decode().encode("utf-16"),
        "is not UTF-8: byte 0 is 0xff; convert the file to UTF-8$",
    ),
    "GBK": (GOOD.decode().encode("gbk"), r"is not UTF-8: byte \d+ is 0x\w\w; convert"),
    "overlong UTF-8": (b'["\xc0\xaf"]', "is not UTF-8: byte 2 is 0xc0"),
    "NaN": (
        b'[{"id": "1", "title": "NaN",\n "asr": NaN}]',
        "NaN is not a JSON value at line 2 column 9$",
    ),
    "infinity": (
        b'[{"id": "1", "title": "-Infinity \\" NaN", "asr": -Infinity}]',
        "-Infinity is not a JSON value at line 1 column 50$",
    ),
    "raw control character": (
        b'[{"id": "a\x00"}]',
        "Invalid control character at line 1 column 11$",
    ),
    "nested deeply": (b"[" * 100_000, "nested too deeply"),
    "nested in an object": (b'{"a":' * 100_000, "nested too deeply"),
    "a member that is no object": (b'[{"id": "1"}, [2]]', "item 1 is a list, not an object$"),
    "a number for an item": (b'[{"id": "1"}, 2]', "item 1 is a number, not an object$"),
    "no id": (annotation_json(id=None), "item 0 has no id$"),
    "lines, one of them cut": (
        b'{"id": "1"}\n{"id": "2"\n{"id": "3"}\n',
        "Expecting ',' delimiter at line 3 column 1$",
    ),
    "lines, one of them no object": (b'{"id": "1"}\n3\n', "item 1 is a number, not an object$"),
} | {
    f"id {value!r}": (
        annotation_json(id=value),
        r"item 0 has id .* ids are 1 to 128 letters, digits, - or _, since they become file names$",
    )
    for value in (
        "../../etc/passwd",
        "a/b",
        "a\\b",
        "a\x00b",
        "",
        " 1",
        "1\n",
        ".",
        "..",
        "\ud800",
        "é",
        "x" * 129,
        1.5,
        True,
        [],
        {"a": 1},
    )
}


@pytest.mark.parametrize("name", REFUSED)
def test_fault_17_what_cannot_be_read_is_exit_3_with_the_place(name, tmp_path):
    data, message = REFUSED[name]
    with pytest.raises(DataFault, match=message) as caught:
        videos(data, tmp_path)
    assert caught.value.code == 3
    assert "labeled.json" in str(caught.value)
    str(caught.value).encode()  # can be printed


MENDED = {
    "title missing": ({"title": None}, "text.missing", {"title": ""}),
    "title a number": ({"title": 2022}, "text.type", {"title": "2022"}),
    "title a fraction": ({"title": 20.22}, "text.type", {"title": ""}),
    "title a list": ({"title": ["x"]}, "text.type", {"title": ""}),
    "title true": ({"title": True}, "text.type", {"title": ""}),
    "asr an object": ({"asr": {"text": "x"}}, "text.type", {"asr": ""}),
    "half an emoji": ({"title": "笑\ud83d"}, "text.surrogate", {"title": "笑\ufffd"}),
    "control characters": (
        {"title": "a\x00b\x1b[31mc\u2028d\x7f"},
        "text.control",
        {"title": "a b [31mc d"},
    ),
    "ocr missing": ({"ocr": None}, "text.missing", {"ocr": ""}),
    "ocr true": ({"ocr": True}, "text.type", {"ocr": ""}),
    "ocr a text": ({"ocr": " 字\x00幕\ud83d "}, "text.surrogate", {"ocr": "字 幕\ufffd"}),
    "ocr a number": ({"ocr": 7}, "text.type", {"ocr": "7"}),
    "ocr of texts": ({"ocr": ["字", {"time": 1, "text": "幕"}]}, "text.type", {"ocr": "幕"}),
    "ocr of numbers": (
        {"ocr": [{"time": 0, "text": 12}, {"text": 1.5}]},
        "text.type",
        {"ocr": "12"},
    ),
    "ocr without text": (
        {"ocr": [{"time": 1}, {"time": 2, "text": None}, {"text": "幕"}]},
        "text.missing",
        {"ocr": "幕"},
    ),
}


@pytest.mark.parametrize("name", MENDED)
def test_fault_17_what_can_be_mended_is_mended_and_counted(name, tmp_path):
    change, code, fields = MENDED[name]
    (video,), findings = videos(annotation_json(change), tmp_path)
    assert {f: video.fields[f] for f in fields} == fields
    assert findings.counts[code] >= 1
    assert all("20" in location for location in findings.places[code])
    assert {type(text) for text in video.fields.values()} == {str}
    "".join(video.fields.values()).encode()


FINE = {
    "plain": GOOD,
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "pretty, CR LF": json.dumps([ITEM], ensure_ascii=True, indent=2).replace("\n", "\r\n").encode(),
    "one a line": json.dumps(ITEM).encode()
    + b"\r\n\r\n"
    + json.dumps(ITEM | {"id": "21"}).encode(),
    "white space around": b" \n\t" + GOOD + b"\n ",
    "unknown fields": annotation_json(duration=9.5, more={"a": [1]}).replace(b"9.5", b"1e400"),
    "a million characters": annotation_json(asr="长" * 1_000_000),
}


@pytest.mark.parametrize("name", FINE)
def test_what_is_fine_is_read_without_a_word(name, tmp_path):
    read_items, findings = videos(FINE[name], tmp_path)
    assert read_items[0].id == "20"
    assert read_items[0].fields["title"] == "标题"
    assert not findings.counts


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("name", [*REFUSED, *FINE])
def test_how_much_is_read_at_a_time_changes_nothing(name, chunk, tmp_path, monkeypatch):
    """A window may end inside a word, an escape, or one of the bytes of a character."""
    data = FINE[name] if name in FINE else REFUSED[name][0]
    if len(data) > 5000:
        return

    def read_outcome() -> object:
        try:
            return videos(data, tmp_path)[0]
        except DataFault as error:
            return str(error)

    expected = read_outcome()
    monkeypatch.setattr("wbdc.competitions.formats.json_stream.CHUNK_BYTES", chunk)
    assert read_outcome() == expected


def test_an_item_that_never_ends_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("wbdc.competitions.formats.json_stream.CHUNK_BYTES", 64)
    monkeypatch.setattr("wbdc.competitions.formats.json_stream.MAX_ITEM_CHARACTERS", 1000)
    with pytest.raises(DataFault, match="an item of more than 1,000 characters at line 1 column 2"):
        videos(b'[{"id": "' + b"1" * 100_000, tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b'[{"id": "1"}, {"id": "2"}, {"id": "1", "title": "x"}]',
        b'[{"id": "1"}, {"id": "2"}, {"id": 1}]',
    ],
)
def test_fault_19_of_equal_ids_the_first_counts(tmp_path, data):
    read_items, findings = videos(data, tmp_path)
    assert [v.id for v in read_items] == ["1", "2"]
    assert read_items[0].fields["title"] == ""
    assert findings.report()["id.twice"] == {"count": 1, "places": ["labeled: 1"]}


@pytest.mark.parametrize("label", [303, ["0001"], {"a": 1}, 1.5, True])
def test_trap_26_a_class_that_is_no_text_is_counted(tmp_path, label):
    (video,), findings = videos(annotation_json(category_id=label), tmp_path)
    assert type(video.label) is str
    assert findings.counts["label.number"] == 1


def test_keys_given_twice_are_counted(tmp_path):
    (video,), findings = videos(
        b'[{"id": "1", "title": "a", "title": "b", "ocr": [{"text": "x", "text": "y"}]}]', tmp_path
    )
    assert video.fields["title"] == "b"
    assert findings.report()["key.twice"] == {
        "count": 2,
        "places": ["labeled.json: text", "labeled.json: title"],
    }


@pytest.mark.parametrize(
    "name", ["12345678901234567890", "0001", "00000000000000000000", "9" * 40, "-", "a_B-9"]
)
def test_trap_26_ids_are_texts(tmp_path, name):
    """20 digits overflow int64 and lose their end in a float; "0001" is not 1."""
    (video,), findings = videos(annotation_json(id=name), tmp_path)
    assert video.id == name
    assert not findings.counts
    assert video.source.path == tmp_path / "zip_frames" / "labeled" / name[-3:] / f"{name}.zip"


def test_trap_26_ids_given_as_numbers_keep_every_digit_and_are_counted(tmp_path):
    (video,), findings = videos(
        annotation_json().replace(b'"20"', b"12345678901234567891"), tmp_path
    )
    assert video.id == "12345678901234567891"
    assert type(video.id) is str
    assert findings.counts == {"id.number": 1}


def test_an_invalid_label_of_the_test_split_is_ignored(tmp_path):
    """A stray number there must not end a submission."""
    for label in (-1, 3.5, [], "9999"):
        assert videos(annotation_json(category_id=label), tmp_path, "test")[0][0].id == "20"


def test_ocr_that_stays_on_screen_is_read_once(tmp_path):
    (video,), _ = videos(
        annotation_json(
            ocr=[{"time": t, "text": x} for t, x in enumerate(["甲", "甲", " 甲 ", "", "乙", "甲"])]
        ),
        tmp_path,
    )
    assert video.fields["ocr"] == "甲 乙 甲"


@pytest.mark.parametrize("content", [None, "folder"])
def test_a_file_that_is_not_there(tmp_path, content):
    if content:
        (tmp_path / "x.json").mkdir()
    with pytest.raises(DataFault, match="x.json (is missing|cannot be read: Is a directory)"):
        list(read_records(tmp_path / "x.json", Findings()))


def test_splits_and_layout(tmp_path):
    with pytest.raises(
        DataFault, match=r"holds neither zip_frames/ \(final round\) nor zip_feats/"
    ):
        WeChat2022().frame_format(tmp_path)
    with pytest.raises(DataFault, match="annotations holds no .json file"):
        WeChat2022().splits(tmp_path)
    for name in ("test_b.json", "labeled.json", "._labeled.json", "notes.txt"):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / name).write_text("[]")
    assert WeChat2022().splits(tmp_path) == ["labeled", "test_b"]
    for folder, holds in (("zip_feats", "features"), ("zip_frames", "jpeg")):
        (tmp_path / folder).mkdir()
        assert WeChat2022().frame_format(tmp_path) == holds


def test_classes(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    assert len(WeChat2022().classes(root)) == 200
    assert "0001" in WeChat2022().classes(root)
    for location in (tmp_path, root):  # beside the data, then in it
        (location / "taxonomy.csv").write_text(
            "\ufeffcategory_id,level1\r\n0002,甲\r\n0001,乙\r\n0002,again\r\n"
        )
        assert WeChat2022().classes(root) == ["0001", "0002"]
    for bad in (b"id,level1\n1,2\n", b"category_id\n\xff\n", b"level1,category_id\n1\n2,3\n"):
        (root / "taxonomy.csv").write_bytes(bad)
        with pytest.raises(
            DataFault, match="taxonomy.csv is not a UTF-8 table with a column category_id"
        ):
            WeChat2022().classes(root)


def test_every_nasty_file_is_refused_or_counted(real_data, tmp_path):
    """error: exit 3 or a counted finding, or accepted where the index allows it; fine: read without
    exit 3; never a crash.
    """
    wrong = {}
    for number, entry in enumerate(
        e
        for e in json.loads((real_data / "nasty" / "nasty.json").read_text())
        if e["file"].startswith("json/")
    ):
        root, split = tmp_path / str(number), "test" if "test_with" in entry["file"] else "labeled"
        (root / "zip_frames").mkdir(parents=True)
        if split == "test":
            small.annotate(root, "labeled", [ITEM])
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.json").write_bytes(
            (real_data / "nasty" / entry["file"]).read_bytes()
        )
        try:
            findings = check_data(root, WeChat2022()).findings.report()
            findings.pop("archive.missing", None)
            refuse_invalid(findings)
            refused = ""
        except DataFault as error:
            findings, refused = {}, str(error)
        silent = not refused and not findings and "accept" not in entry["should"]
        if (entry["verdict"] == "error" and silent) or (entry["verdict"] == "fine" and refused):
            wrong[entry["file"]] = refused or "silent"
    assert number > 40
    assert wrong == {}
