"""Words of several Chinese characters are one token each, everywhere the same."""

import json
import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from wbdc.core.errors import UsageFault
from wbdc.data.special_tokens import SPECIAL_TOKENS
from wbdc.data.text import TextReader, learn_tokenizer, open_tokenizer
from wbdc.data.text_settings import MAX_WORDS, check_word_count
from wbdc.data.words import (
    MIN_WORD_COUNT,
    add_words,
    is_chinese_word,
    learn_words,
    sample_texts,
)

CHARACTERS = "发展中国人家火锅视频的"
WORDS = ["发展", "中国", "中国人", "国家", "火锅", "视频"]


def build_tokenizer() -> Tokenizer:
    return learn_tokenizer([CHARACTERS, "hello un ##able"], min_count=1)


def longhand(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Match the longest word from left to right; `text` has Chinese characters and spaces only."""
    ids = []
    while text := text.lstrip(" "):
        longest = max((w for w in [*WORDS, text[0]] if text.startswith(w)), key=len)
        ids.append(vocabulary.get(longest, vocabulary["[UNK]"]))
        text = text[len(longest) :]
    return ids


def test_the_longest_word_is_matched_from_left_to_right():
    rng = random.Random(0)
    tokenizer = build_tokenizer()
    add_words(tokenizer, WORDS)
    saved = Tokenizer.from_str(tokenizer.to_str())
    texts = ["".join(rng.choices(CHARACTERS + " 生", k=60)) for _ in range(100)]
    expected = [longhand(text, tokenizer.get_vocab()) for text in texts]
    for reader in (TextReader(t, fields={"title": 90}, length=92) for t in (tokenizer, saved)):
        read = reader([{"title": text} for text in texts])
        assert read == [[reader.cls, *ids, reader.sep] for ids in expected]
    words = {tokenizer.token_to_id(word) for word in WORDS}
    assert words <= {i for ids in expected for i in ids}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("发展中国家", ["发展", "中国", "家"]),
        ("中国hello火锅", ["中国", "hello", "火锅"]),
        ("中 国\t中\n国", ["中", "国", "中", "国"]),
        ("中\x07国人", ["中", "国", "人"]),  # words are matched before control characters go
        ("“火锅”，视频的频", ["[UNK]", "火锅", "[UNK]", "[UNK]", "视频", "的", "频"]),
        ("unable", ["un", "##a", "##b", "##l", "##e"]),
        ("[SEP]中国", ["[UNK]", "s", "##e", "##p", "[UNK]", "中国"]),
    ],
)
def test_all_other_text_is_read_as_without_words(text, tokens):
    tokenizer = build_tokenizer()
    add_words(tokenizer, WORDS)
    reader = TextReader(tokenizer, fields={"title": 30}, length=40)
    [ids] = reader([{"title": text}])
    assert [tokenizer.id_to_token(i) for i in ids[1:-1]] == tokens


def test_new_words_get_the_next_ids_and_name_their_characters():
    tokenizer = build_tokenizer()
    before = tokenizer.get_vocab()
    pieces = add_words(tokenizer, ["中国", "中国人", "火生"])
    assert list(pieces) == [len(before), len(before) + 1, len(before) + 2]
    assert list(pieces.values()) == [
        [before["中"], before["国"]],
        [before["中"], before["国"], before["人"]],
        [before["火"], before["[UNK]"]],
    ]
    assert {k: v for k, v in tokenizer.get_vocab().items() if k in before} == before
    assert tokenizer.get_vocab_size() == len(before) + 3
    assert add_words(tokenizer, ["中国"]) == {}, "it has a token already"


def test_budgets_count_words():
    tokenizer = build_tokenizer()
    add_words(tokenizer, WORDS)
    reader = TextReader(tokenizer, fields={"title": 3, "asr": 3}, length=9, tail=["asr"])
    [ids] = reader([{"title": "中国人火锅视频的", "asr": "中国人火锅视频的"}])
    tokens = [tokenizer.id_to_token(i) for i in ids]
    assert tokens == ["[CLS]", *WORDS[2:3], "火锅", "视频", "[SEP]", "火锅", "视频", "的", "[SEP]"]
    assert reader.token_fields(np.array(ids)).tolist() == [0, 1, 1, 1, 0, 2, 2, 2, 0]


def test_frequent_neighbors_become_words():
    texts = ["火锅，视频。火锅", "视频hello火锅 中国人", "中国人!视频", "中国人"] * 3
    words = learn_words(texts, 10)
    assert set(words) == {"火锅", "视频", "中国人"}, "中国 occurs only in 中国人"
    assert words == learn_words(iter(texts), 10)
    assert len(learn_words(texts, 2)) == 2
    assert learn_words(["火锅 视频"] * (MIN_WORD_COUNT - 1) + ["火锅"], 10) == ["火锅"]
    assert learn_words(["全力以赴"] * 9, 10) == ["全力以赴"]
    assert "中国人家的" not in learn_words(["中国人家的"] * 9, 10), "too long"


@pytest.mark.parametrize("texts", [[], ["hello world"] * 9, ["火锅"] * (MIN_WORD_COUNT - 1)])
def test_texts_without_words_are_refused(texts):
    with pytest.raises(UsageFault, match="text.words = 7, but no sequence of Chinese characters"):
        learn_words(texts, 7)


def test_a_sample_of_long_data_is_spread_over_all_of_it():
    texts = [str(i) * 10 for i in range(10)]
    assert sample_texts(texts, 100) == texts
    assert sample_texts(iter(texts), 99) == texts[::2]
    assert sample_texts(iter(texts), 30) == texts[::4]
    assert sample_texts(["long" * 10], 1) == ["long" * 10]


def test_words_of_a_vocabulary_file_are_matched(tmp_path):
    """As in the vocab.txt of WoBERT."""
    listed = [*SPECIAL_TOKENS, "中", "国", "中国", "##中国", "人", "ok", "国人", "火锅店老板"]
    (tmp_path / "vocab.txt").write_text("\n".join(listed), encoding="utf-8")
    opened = open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(opened.to_str(), encoding="utf-8")
    for tokenizer in (opened, open_tokenizer(tmp_path)):
        assert tokenizer.get_vocab() == {token: i for i, token in enumerate(listed)}
        encoded = tokenizer.encode("中国国人OK国中火锅店老板", add_special_tokens=False)
        assert encoded.tokens == ["中国", "国人", "ok", "国", "中", "火锅店老板"]
        assert len(json.loads(tokenizer.to_str())["added_tokens"]) == len(SPECIAL_TOKENS) + 3


def test_a_chinese_word_has_chinese_characters_only():
    assert [
        t for t in ("中国", "中", "##中国", "T恤", "です", "", "中国!") if is_chinese_word(t)
    ] == ["中国"]


def test_pieces_of_other_tokenizers_are_words_already():
    with pytest.raises(UsageFault, match="text.words needs the WordPiece .* is a Unigram"):
        add_words(Tokenizer(models.Unigram([("中", 0.0)], 0, False)), ["中国"])


@pytest.mark.parametrize("count", [-1, MAX_WORDS + 1])
def test_a_number_of_words_out_of_bounds_is_refused(count):
    check_word_count(0)
    with pytest.raises(UsageFault, match=f"text.words = {count}; it must be between 0 and 100,000"):
        check_word_count(count)
