"""Text: the fields of a video as one sequence of token ids; each field has its own token budget."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from wbdc.core.errors import EnvironmentFault, IntegrityFault
from wbdc.core.files import read_bytes, read_text
from wbdc.core.out_of_memory import raise_if_exhausted
from wbdc.data.special_tokens import SPECIAL_TOKENS, special_token_ids, special_token_names
from wbdc.data.text_settings import check_budgets
from wbdc.data.words import is_chinese_word, match_words

SENTENCEPIECE_FILES = ("spiece.model", "spm.model", "sentencepiece.bpe.model")
CONVERT_TOKENIZER_COMMAND = (
    "python -c 'import sys; from transformers import AutoTokenizer as T; "
    "T.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])'"
)
LATIN_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
# long text is first cut to this many characters for each token: OCR can have 15,000
CHARACTERS_PER_TOKEN = 8
MAX_WORD_CHARACTERS = 23  # longer Latin words do not enter the vocabulary


class TextReader:
    """Encodes the fields of a video as `[CLS] first field [SEP] second field [SEP]`, with at most
    `length` ids.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        fields: dict[str, int],
        length: int = 256,
        tail: Sequence[str] = (),
    ):
        """fields: token budget of each field, in reading order. length: maximum number of tokens
        per video. tail: fields that are cut at the beginning, not at the end, when they are too
        long.

        Tokens that a field does not use are given to the other fields. Raises UsageFault when the
        budgets exceed the length, or when the tokenizer lacks a special token.
        """
        check_budgets(fields, length, tail)
        self.tokenizer = tokenizer
        self.fields = fields
        self.length = length
        self.tail = frozenset(tail)
        self.text_length = length - 1 - len(fields)  # without [CLS], and a [SEP] after each field

        names = set(special_token_names(tokenizer).values())
        literal = [
            t
            for t in tokenizer.get_added_tokens_decoder().values()
            if t.content in names and not t.special
        ]
        if literal:
            tokenizer.add_special_tokens([t.content for t in literal])
        # "[SEP]" in a title is text, not a boundary; tokenizer files do not store this option
        tokenizer.encode_special_tokens = True
        ids = special_token_ids(tokenizer)
        self.cls = ids["[CLS]"]
        self.sep = ids["[SEP]"]
        self.unknown = ids["[UNK]"]
        # the pieces of a unigram model contain its special tokens, which no option excludes
        is_unigram = isinstance(tokenizer.model, models.Unigram)
        self.forbidden = frozenset(ids.values()) if is_unigram else frozenset()

    def __call__(self, videos: Sequence[dict[str, str]]) -> list[list[int]]:
        """Encode videos, given as {field: text}: one list of 1 + len(fields) .. length ids each."""
        limit = self.length * CHARACTERS_PER_TOKEN
        cut_texts = [
            texts[field][-limit:] if field in self.tail else texts[field][:limit]
            for texts in videos
            for field in self.fields
        ]
        ids = [e.ids for e in self.tokenizer.encode_batch_fast(cut_texts, add_special_tokens=False)]
        if self.forbidden:
            ids = [[self.unknown if i in self.forbidden else i for i in part] for part in ids]
        width = len(self.fields)
        return [self._join(ids[i * width : (i + 1) * width]) for i in range(len(videos))]

    def token_fields(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of the field of each token of an encoded video: (T,) int -> (T,) int8.

        Fields count from 1 in reading order; special tokens are 0. Only the boundaries are [SEP],
        because a literal "[SEP]" in a text is encoded as text.
        """
        is_boundary = ids == self.sep
        numbers = 1 + np.cumsum(is_boundary)
        return np.where(is_boundary | (ids == self.cls), 0, numbers).astype(np.int8)

    def _join(self, parts: list[list[int]]) -> list[int]:
        counts = share_token_budget(
            [len(part) for part in parts], list(self.fields.values()), self.text_length
        )
        ids = [self.cls]
        for field, part, count in zip(self.fields, parts, counts, strict=True):
            ids += part[len(part) - count :] if field in self.tail else part[:count]
            ids.append(self.sep)
        return ids


def share_token_budget(counts: list[int], budgets: list[int], available: int) -> list[int]:
    """Give each field at most its budget, then share the remaining tokens evenly among the fields
    that have more.

    counts: tokens of each field. Returns the tokens granted to each field, at most `available` in
    total. (Truncating the joined text instead would let a long title displace speech and on-screen
    text.)
    """
    granted = [min(count, budget) for count, budget in zip(counts, budgets, strict=True)]
    remaining = available - sum(granted)
    while remaining > 0 and (cut := [i for i, count in enumerate(counts) if count > granted[i]]):
        for i in cut:
            share = max(1, remaining // len(cut))
            granted[i] += min(share, counts[i] - granted[i], available - sum(granted))
        remaining = available - sum(granted)
    return granted


def open_tokenizer(folder: Path) -> Tokenizer:
    """Open the tokenizer of a weights folder: tokenizer.json, or the vocab.txt of a BERT.

    Words of several Chinese characters in a vocab.txt are matched, as in WoBERT (Su, 2020).
    Raises EnvironmentFault when there is none, IntegrityFault when it is damaged.
    """
    if (folder / "tokenizer.json").exists():
        tokenizer = _read_tokenizer(folder / "tokenizer.json")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    if not (folder / "vocab.txt").is_file():
        raise _missing_tokenizer(folder)

    config = folder / "tokenizer_config.json"
    settings = json.loads(read_text(config)) if config.is_file() else {}
    # not `splitlines`, since some tokens are line separators
    tokens = read_text(folder / "vocab.txt").removesuffix("\n").split("\n")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = _build_bert_tokenizer(vocabulary, settings.get("do_lower_case", True))
    match_words(tokenizer, filter(is_chinese_word, tokens))
    return tokenizer


def list_tokens(tokenizer: Tokenizer) -> list[str]:
    """List the tokens of a tokenizer by their ids; "" for an id without a token."""
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = [""] * (1 + max(ids.values(), default=-1))
    for token, number in ids.items():
        tokens[number] = token
    return tokens


def _missing_tokenizer(folder: Path) -> EnvironmentFault:
    for name in SENTENCEPIECE_FILES:
        if (folder / name).is_file():
            return EnvironmentFault(
                f"{folder} holds {name} and no tokenizer.json; write it once, after "
                f"pip install sentencepiece: {CONVERT_TOKENIZER_COMMAND} {shlex.quote(str(folder))}"
            )
    return EnvironmentFault(
        f"{folder} holds neither tokenizer.json nor vocab.txt; put the tokenizer beside the weights"
    )


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(read_bytes(path))
    except Exception as error:  # the library raises this class
        raise_if_exhausted(error)
        raise IntegrityFault(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error


def learn_tokenizer(texts: Iterable[str], *, min_count: int = 2, max_size: int = 8000) -> Tokenizer:
    """Build a BERT tokenizer of single characters and whole Latin words from raw text, for models
    without pretrained weights.

    min_count: minimum number of occurrences of a character or word. max_size: maximum size of the
    vocabulary. Equal texts give equal tokenizers.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            counts[word] += 1
            counts.update(c if i == 0 else f"##{c}" for i, c in enumerate(word) if len(word) > 1)

    frequent = (
        word
        for word, count in counts.items()
        if count >= min_count and len(word) <= MAX_WORD_CHARACTERS
    )
    words = sorted(frequent, key=lambda word: (-counts[word], word))
    letters = [*(f"##{c}" for c in LATIN_CHARACTERS), *LATIN_CHARACTERS]
    tokens = list(dict.fromkeys([*SPECIAL_TOKENS, *letters, *words]))[:max_size]
    return _build_bert_tokenizer({token: i for i, token in enumerate(tokens)}, True)


def _build_bert_tokenizer(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([t for t in SPECIAL_TOKENS if t in vocabulary])
    return tokenizer
