"""Text: the fields of a video become one row of token ids, each field with a budget of its own."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from wbdc.core import plug
from wbdc.core.errors import EnvironmentLacks, IntegrityBroken, UsageFault, suggest_name
from wbdc.core.files import read_bytes, read_text
from wbdc.core.out_of_memory import raise_if_exhausted

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS_PER_TOKEN = (
    8  # text far beyond its budget is cut by characters first: OCR can be 15,000 long
)


class TextReader:
    """Turns the fields of a video into `[CLS] first field [SEP] second field [SEP]` of at most
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
        """fields: budget in tokens per field, in reading order. length: tokens of the whole row. tail:
        fields whose end is kept.

        What one field leaves of its budget is shared out among the others. Raises UsageFault when
        budgets exceed the length.
        """
        check_budgets(fields, length, tail)
        self.tokenizer, self.fields, self.length, self.tail = (
            tokenizer,
            fields,
            length,
            frozenset(tail),
        )
        self.room = length - 1 - len(fields)  # [CLS], and a [SEP] after each field
        literal = [
            t
            for t in tokenizer.get_added_tokens_decoder().values()
            if t.content in SPECIAL_TOKENS and not t.special
        ]
        if literal:
            tokenizer.add_special_tokens([t.content for t in literal])
        tokenizer.encode_special_tokens = (
            True  # a title that holds "[SEP]" is text, not a boundary; no tokenizer file keeps this
        )
        self.cls, self.sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")

    def __call__(self, rows: Sequence[dict[str, str]]) -> list[list[int]]:
        """Encode videos, given as {field: text}: one list of 1 + len(fields) .. length ids each."""
        most = self.length * CHARACTERS_PER_TOKEN
        flat = [
            row[f][-most:] if f in self.tail else row[f][:most] for row in rows for f in self.fields
        ]
        ids = [e.ids for e in self.tokenizer.encode_batch_fast(flat, add_special_tokens=False)]
        width = len(self.fields)
        return [self._join(ids[i * width : (i + 1) * width]) for i in range(len(rows))]

    def _join(self, parts: list[list[int]]) -> list[int]:
        row = [self.cls]
        for field, part, take in zip(
            self.fields,
            parts,
            share_token_budget([len(p) for p in parts], list(self.fields.values()), self.room),
        ):
            row += part[len(part) - take :] if field in self.tail else part[:take]
            row.append(self.sep)
        return row


def check_budgets(fields: dict[str, int], length: int, tail: Sequence[str] = ()) -> None:
    """Refuse budgets that are no numbers of tokens, that exceed the length, or a tail that is not
    read. Raises UsageFault.
    """
    for field in tail:
        if field not in fields:
            raise UsageFault(
                f"text.tail names {field!r}, which text.fields does not read{suggest_name(str(field), list(fields))}"
            )
    if wrong := [f for f, budget in fields.items() if type(budget) is not int or budget < 0]:
        raise UsageFault(f"text.fields: {wrong[0]} = {fields[wrong[0]]!r} is no number of tokens")
    room = length - 1 - len(fields)
    if room < 0:
        raise UsageFault(
            f"text.length = {length} is too short: {len(fields)} fields need {1 + len(fields)} special tokens alone"
        )
    if sum(fields.values()) > room:
        raise UsageFault(
            f"text.fields ask for {sum(fields.values())} tokens; text.length = {length} leaves {room} beside its special ones"
        )


def share_token_budget(wanted: list[int], budgets: list[int], room: int) -> list[int]:
    """Give each field up to its budget, then share what is left evenly among those that want more.

    wanted: tokens per field; returns tokens taken per field, at most `room` in all. (Cutting the
    joined text
    instead lets a long title starve speech and on-screen text.)
    """
    taken = [min(w, b) for w, b in zip(wanted, budgets)]
    left = room - sum(taken)
    while left > 0 and (hungry := [i for i, w in enumerate(wanted) if w > taken[i]]):
        for i in hungry:
            more = min(max(1, left // len(hungry)), wanted[i] - taken[i], room - sum(taken))
            taken[i] += more
        left = room - sum(taken)
    return taken


def open_tokenizer(folder: Path) -> Tokenizer:
    """Open the tokenizer of a weights folder: tokenizer.json, or a BERT vocab.txt. Raises
    EnvironmentLacks.
    """
    if (folder / "tokenizer.json").exists():
        tokenizer = _read_tokenizer(folder / "tokenizer.json")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    if not (folder / "vocab.txt").is_file():
        raise EnvironmentLacks(
            f"{folder} holds neither tokenizer.json nor vocab.txt; put the tokenizer beside the weights"
        )
    settings = folder / "tokenizer_config.json"
    lower = (
        json.loads(read_text(settings)).get("do_lower_case", True) if settings.is_file() else True
    )
    words = (
        read_text(folder / "vocab.txt").removesuffix("\n").split("\n")
    )  # some words are line separators
    return _build_bert_tokenizer({word: i for i, word in enumerate(words)}, lower)


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(read_bytes(path))
    except Exception as error:  # the library raises this very class
        raise_if_exhausted(error)
        raise IntegrityBroken(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error


def learn_tokenizer(texts: Iterable[str], *, least: int = 2, most: int = 8000) -> Tokenizer:
    """Build a BERT tokenizer of single characters and whole Latin words from raw text, for models
    without pretrained weights.

    least: times a character or word must occur; most: size of the vocabulary. Equal texts give
    equal tokenizers.
    """
    normalise, cut = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        for word, _ in cut.pre_tokenize_str(normalise.normalize_str(text)):
            counts[word] += 1
            counts.update(c if i == 0 else f"##{c}" for i, c in enumerate(word) if len(word) > 1)
    words = sorted(
        (w for w, n in counts.items() if n >= least and len(w) < 24), key=lambda w: (-counts[w], w)
    )
    letters = [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"] + list(
        "abcdefghijklmnopqrstuvwxyz0123456789"
    )
    vocabulary = list(dict.fromkeys([*SPECIAL_TOKENS, *letters, *words]))[:most]
    return _build_bert_tokenizer({word: i for i, word in enumerate(vocabulary)}, True)


def check_vocabulary_settings(settings: dict) -> dict[str, int]:
    """Check the kit's `text.vocabulary` table. Raises UsageFault."""
    plug.check_settings("text.vocabulary", learn_tokenizer, settings)
    for name, lowest in (("least", 1), ("most", len(SPECIAL_TOKENS) + 1)):
        if settings.get(name, lowest) < lowest:
            raise UsageFault(f"text.vocabulary: {name} = {settings[name]}; it counts from {lowest}")
    return settings


def _build_bert_tokenizer(vocabulary: dict[str, int], lower: bool) -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([t for t in SPECIAL_TOKENS if t in vocabulary])
    return tokenizer
