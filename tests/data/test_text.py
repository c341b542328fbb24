"""Text: the same ids as transformers' BERT, and a token budget for every field."""

import itertools
import json
import random

import pytest

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.core.plug import plug_settings
from wbdc.data.special_tokens import SPECIAL_TOKENS
from wbdc.data.text import (
    TextReader,
    learn_tokenizer,
    open_tokenizer,
    share_token_budget,
)
from wbdc.data.text_settings import (
    VOCABULARY_SETTINGS,
    check_vocabulary_settings,
    text_settings,
    vocabulary_settings,
)

LETTERS = [
    *"标题说话字幕的了abcdefghijk0123456789.,!?·—“”（）😀é",
    *(f"##{c}" for c in "abcdefghijklmnopqrst0123456789"),
]
WORDS = [
    *SPECIAL_TOKENS,
    *LETTERS,
    "hello",
    "##ing",
    "good",
    "un",
    "##able",
    "ok",
    "café",
    "\u2028",
    "x\x85",
    "last",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A weights folder with the vocab.txt of a BERT; two of its words hold line separators, as
    those of Chinese BERTs do.
    """
    home = tmp_path_factory.mktemp("bert")
    (home / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def tokenizer(folder):
    return open_tokenizer(folder)


TEXTS = [
    "",
    " ",
    "标题的字幕了",
    "Hello 标题hello世界",
    "HELLOing unable ok",
    "good·good—“标题”（字幕）",
    "😀标题👨‍👩‍👧😀",
    "a\x00b\x07c\ufffdd",
    "a\tb\nc\r\nd\u3000e",
    "café CAFÉ cafe\u0301",
    "20231234567 0001",
    "x" * 99,
    "x" * 101,
    "[SEP] [MASK]标题",
    "标\u200b题\u202e字",
    "𠀀标题",
    "ﬁ１２Ａ",
    "last",
    "ＡＢＣ",
    "标题" * 300,
    "\ud7ff\ue000",
    "İstanbul",
    "ok\u2028ok",
]


@pytest.mark.parametrize("lower", [True, False])
def test_ids_equal_those_of_transformers(folder, tmp_path, lower):
    from transformers import BertTokenizer

    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    reference = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, do_lower_case=lower)
    ours = TextReader(open_tokenizer(tmp_path), fields={"title": 800}, length=1000)
    assert ours([{"title": text} for text in TEXTS]) == [
        reference(text, split_special_tokens=True)["input_ids"] for text in TEXTS
    ]


@pytest.mark.parametrize("special", [True, False])
def test_a_special_token_in_a_title_is_text(tokenizer, special):
    """Also with a tokenizer.json that marks its special words as ordinary ones."""
    saved = json.loads(tokenizer.to_str())
    for token in saved["added_tokens"]:
        token["special"] = special
    read = TextReader(
        type(tokenizer).from_str(json.dumps(saved)), fields={"title": 20, "asr": 20}, length=60
    )
    ids = {word: i for i, word in enumerate(WORDS)}
    [row] = read([{"title": "标 [SEP] 题[MASK][PAD]", "asr": "[CLS]"}])
    assert [i for i in row if i in map(ids.get, SPECIAL_TOKENS) and i != ids["[UNK]"]] == [
        ids["[CLS]"],
        ids["[SEP]"],
        ids["[SEP]"],
    ]
    assert row[:2] == [ids["[CLS]"], ids["标"]]
    assert row.count(ids["题"]) == 1


def test_every_token_of_a_vocabulary_keeps_its_id(tokenizer):
    """`str.splitlines` also cuts at U+2028 and U+0085: every later word would slip to another
    vector.
    """
    assert tokenizer.get_vocab() == {word: i for i, word in enumerate(WORDS)}


def test_truncation_and_padding_of_a_tokenizer_file_are_disabled(tokenizer, tmp_path):
    changed = type(tokenizer).from_str(tokenizer.to_str())
    changed.enable_truncation(3)
    changed.enable_padding(length=9)
    changed.save(str(tmp_path / "tokenizer.json"))
    assert (
        open_tokenizer(tmp_path).encode("标题标题标题", add_special_tokens=False).ids
        == tokenizer.encode("标题标题标题", add_special_tokens=False).ids
    )


def test_no_tokenizer_is_exit_7(tmp_path):
    with pytest.raises(
        EnvironmentFault, match="holds neither tokenizer.json nor vocab.txt"
    ) as caught:
        open_tokenizer(tmp_path)
    assert caught.value.code == 7


def test_a_sentencepiece_model_gets_the_command_that_converts_it(tmp_path):
    (tmp_path / "spiece.model").touch()
    with pytest.raises(
        EnvironmentFault, match=r"holds spiece.model and no .*: python -c .*T\.from_pretrained"
    ):
        open_tokenizer(tmp_path)


BUDGETS = [(3, 2, 4), (0, 5, 1), (1, 1, 1), (0, 0, 0)]


@pytest.mark.parametrize("budgets", BUDGETS)
def test_trap_27_unused_budget_is_shared(budgets):
    for counts in itertools.product(range(0, 13, 2), repeat=3):
        for room in range(sum(budgets), sum(budgets) + 8):
            granted = share_token_budget(list(counts), list(budgets), room)
            assert all(
                min(w, b) <= t <= w for w, b, t in zip(counts, budgets, granted, strict=True)
            )  # what is due, and never more than there is
            assert sum(granted) == min(room, sum(counts))  # nothing is wasted, and the room is kept
            beyond = [
                t - min(w, b) for w, b, t in zip(counts, budgets, granted, strict=True) if t < w
            ]
            assert (
                not beyond or max(beyond) - min(beyond) <= 1
            )  # those still hungry got equal parts


@pytest.fixture
def reader(tokenizer):
    return lambda **settings: TextReader(
        tokenizer, **{"fields": {"title": 10, "asr": 10, "ocr": 10}, "length": 40} | settings
    )


def parts(reader, row: list[int]) -> list[list[int]]:
    """Split a row into its fields."""
    assert row[0] == reader.cls
    assert row[-1] == reader.sep
    fields = [[]]
    for i in row[1:]:
        fields.append([]) if i == reader.sep else fields[-1].append(i)
    return fields[:-1]


def test_trap_27_a_long_title_does_not_displace_other_fields(reader):
    read = reader()
    row = {"title": "标" * 500, "asr": "说" * 8, "ocr": "字" * 500}
    (ids,) = read([row])
    title, asr, ocr = parts(read, ids)
    assert len(ids) == 40
    assert len(asr) == 8
    assert (len(title), len(ocr)) == (14, 14)


def test_trap_27_every_row_keeps_the_order_of_fields(reader):
    rng, read = random.Random(0), reader()
    rows = [
        {f: "标" * rng.choice([0, 1, 9, 30, 200]) for f in ("ocr", "asr", "title")}
        for _ in range(50)
    ]
    for row, ids in zip(rows, read(rows), strict=True):
        assert 4 <= len(ids) <= 40
        assert all(
            min(10, len(row[f])) <= len(p) <= len(row[f])
            for f, p in zip(("title", "asr", "ocr"), parts(read, ids), strict=True)
        )


def test_head_or_tail(reader):
    row = {"title": "", "asr": "a b c d e f g h i j k 1 2 3", "ocr": ""}
    letters = lambda read: [read.tokenizer.id_to_token(i) for i in parts(read, read([row])[0])[1]]  # noqa: E731
    settings = {"length": 9, "fields": {"title": 1, "asr": 1, "ocr": 1}}
    assert letters(reader(**settings)) == ["a", "b", "c", "d", "e"]
    assert letters(reader(**settings, tail=["asr"])) == ["j", "k", "1", "2", "3"]
    assert parts(reader(tail=["asr"]), reader(tail=["asr"])([row | {"asr": ""}])[0]) == [[], [], []]


@pytest.mark.parametrize("tail", [(), ("asr",)])
def test_a_long_text_is_cut_before_tokenization(reader, tail):
    row = {"title": "", "asr": "标题" + "说" * 10**6 + "字幕", "ocr": ""}
    read = reader(tail=tail)
    (ids,) = read([row])
    text = read.tokenizer.decode(parts(read, ids)[1]).replace(" ", "")
    assert text == ("说" * 34 + "字幕" if tail else "标题" + "说" * 34)


def test_trap_11_rows_do_not_depend_on_their_neighbors(reader):
    rows = [{"title": t, "asr": t[::-1], "ocr": ""} for t in TEXTS if t.isprintable()]
    assert reader()(rows) == [ids for row in rows for ids in reader()([row])]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"fields": {"title": 20, "asr": 20}},
            "text.fields request 40 tokens; text.length = 40 leaves 37",
        ),
        (
            {"tail": ["titel"]},
            "text.tail names 'titel', which text.fields does not read; did you mean 'title'",
        ),
        ({"fields": {"title": -1}}, "title = -1 is not a number of tokens"),
        ({"fields": {"title": "9"}}, "title = '9' is not a number of tokens"),
        ({"fields": {"title": True}}, "title = True is not a number of tokens"),
    ],
)
def test_invalid_settings_are_refused(reader, wrong, message):
    with pytest.raises(UsageFault, match=message):
        reader(**wrong)


def test_equal_texts_give_equal_vocabularies():
    texts = ["标题 hello", "标题 hello 字", "Hello! 幕"]
    one, two = learn_tokenizer(texts), learn_tokenizer(iter(texts))
    assert one.to_str() == two.to_str()
    words = one.get_vocab()
    assert [words[s] for s in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert {"标", "题", "hello"} <= set(words)
    assert "幕" not in words
    unknown = words["[UNK]"]
    assert unknown not in one.encode("unseen latin 42", add_special_tokens=False).ids
    assert unknown in one.encode("幕", add_special_tokens=False).ids
    assert learn_tokenizer(texts, max_size=20).get_vocab_size() == 20
    assert "幕" in learn_tokenizer(texts, min_count=1).get_vocab()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mincount": 2}, "has no setting 'mincount'; did you mean 'min_count'"),
        ({"leastmost": 2}, "has no setting 'leastmost'"),
        ({"min_count": "2"}, "min_count = '2' is not of the type int"),
        ({"max_size": True}, "max_size = True is not of the type int"),
    ],
)
def test_the_vocabulary_table_is_checked_by_the_signature(wrong, message):
    with pytest.raises(UsageFault, match=message):
        check_vocabulary_settings(wrong)
    assert check_vocabulary_settings({"min_count": 1}) == {"min_count": 1}


def test_declared_settings_are_those_of_the_reader_and_of_the_vocabulary():
    def defaults(target) -> dict:
        return {name: setting.default for name, setting in plug_settings(target).items()}

    declared = defaults(text_settings)
    others = {name: declared[name] for name in declared if name not in VOCABULARY_SETTINGS}
    assert others == defaults(TextReader)
    assert defaults(vocabulary_settings) == defaults(learn_tokenizer)
