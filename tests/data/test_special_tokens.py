"""Texts are joined with the special tokens of a text model, whatever it calls them."""

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from wbdc.core.errors import UsageFault
from wbdc.data.special_tokens import special_token_ids
from wbdc.data.text import TextReader

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
XLNET = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"]


def tokenizer_with(names: list[str], special: bool = True) -> Tokenizer:
    words = [*names, "a", "b", "<", ">", "/", "s", "sep"]
    unknown = next((name for name in names if "unk" in name.lower()), "a")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_tokens([AddedToken(name, special=special) for name in names])
    return tokenizer


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (BERT, {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}),
        (ROBERTA, {"[PAD]": 1, "[UNK]": 3, "[CLS]": 0, "[SEP]": 2, "[MASK]": 4}),
        (XLNET, {"[PAD]": 5, "[UNK]": 0, "[CLS]": 3, "[SEP]": 4, "[MASK]": 6}),
    ],
)
@pytest.mark.parametrize("special", [True, False])
def test_fields_are_joined_with_the_tokens_of_the_model(names, expected, special):
    tokenizer = tokenizer_with(names, special)
    assert special_token_ids(tokenizer) == expected
    reader = TextReader(tokenizer, fields={"title": 4, "asr": 4}, length=16)
    a, b = (tokenizer.token_to_id(word) for word in "ab")
    first, last = expected["[CLS]"], expected["[SEP]"]
    assert reader([{"title": "a", "asr": "b b"}]) == [[first, a, last, b, b, last]]
    literal = reader([{"title": "</s>", "asr": "<sep>"}])[0]
    assert literal.count(last) == 2, "a literal name of a special token is text"


def test_a_piece_of_a_unigram_model_is_no_boundary():
    """A unigram model reads "<sep>" in a text as the piece of this name."""
    pieces = [(name, 0.0) for name in XLNET] + [(letter, -5.0) for letter in "ab<>sep"]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, False))
    tokenizer.add_special_tokens(XLNET)
    reader = TextReader(tokenizer, fields={"title": 6}, length=16)
    a, b = (tokenizer.token_to_id(word) for word in "ab")
    assert tokenizer.encode("a<sep>b", add_special_tokens=False).ids == [a, 4, b]
    assert reader([{"title": "a<sep>b"}]) == [[3, a, 0, b, 4]]


def test_a_tokenizer_without_a_special_token_is_refused():
    with pytest.raises(
        UsageFault, match=r"no token called \[MASK\] or <mask>; choose a text model"
    ):
        TextReader(tokenizer_with(["<s>", "</s>", "<pad>", "<unk>"]), fields={"title": 4})
