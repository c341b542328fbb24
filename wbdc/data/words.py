"""Words of several Chinese characters as single tokens beside the characters: how they are learned
from texts, and how a tokenizer matches them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from wbdc.core.errors import UsageFault

CHINESE = "\u3400-\u4dbf\u4e00-\u9fff"  # a range of characters for regular expressions
CHINESE_WORD = re.compile(f"[{CHINESE}]{{2,}}")
MAX_CHINESE_CHARACTERS = 4  # of a learned word; most idioms have 4
MIN_WORD_COUNT = 5  # as in word2vec: the embedding of a rarer word would hardly be trained
# bounds time and memory: 10 million characters take a minute and 2 GB
MAX_LEARNED_CHARACTERS = 10_000_000


def is_chinese_word(token: str) -> bool:
    """Return whether a token consists of two or more Chinese characters and nothing else."""
    return CHINESE_WORD.fullmatch(token) is not None


def learn_words(texts: Iterable[str], count: int) -> list[str]:
    """Learn at most `count` words of 2 to 4 Chinese characters from raw text, by byte-pair encoding
    (Sennrich et al., 2016), the most frequent first.

    Neighbors that occur together most often are merged again and again, so no dictionary is needed.
    Words that are matched fewer than MIN_WORD_COUNT times, because they occur only in longer words,
    are left out. Equal texts give equal words. Raises UsageFault when there are none.
    """
    sample = sample_texts(texts, MAX_LEARNED_CHARACTERS)
    candidates = _merge_characters(sample, count)
    matches = _count_matches(sample, candidates)
    words = [word for word in candidates if matches[word] >= MIN_WORD_COUNT]
    if not words:
        raise UsageFault(
            f"text.words = {count}, but no sequence of Chinese characters occurs {MIN_WORD_COUNT} "
            "times in the texts; remove text.words"
        )
    return words


def sample_texts(texts: Iterable[str], max_characters: int) -> list[str]:
    """Return every text, or every second, fourth, ... one, so that they have at most
    `max_characters` characters; the first text is always among them.
    """
    sample: list[str] = []
    characters = 0
    step = 1
    for number, text in enumerate(texts):
        if number % step:
            continue
        sample.append(text)
        characters += len(text)
        while characters > max_characters and len(sample) > 1:
            step *= 2
            sample = sample[::2]
            characters = sum(map(len, sample))
    return sample


def match_words(tokenizer: Tokenizer, words: Iterable[str]) -> None:
    """Make each of `words` one token wherever it occurs in a text: from left to right, the longest
    word that begins at a character. All other text is tokenized as before.

    A word of the tokenizer's vocabulary keeps its id; others get the next ids.
    """
    # matched before normalization, which would put spaces around the characters of a word
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])


def add_words(tokenizer: Tokenizer, words: Iterable[str]) -> dict[int, list[int]]:
    """Add words to a tokenizer that has not matched them so far.

    Returns for the id of each new word the ids of the tokens that it was before. Raises UsageFault
    for a tokenizer that is not a WordPiece, since pieces of other kinds cross characters anyway.
    """
    if not isinstance(tokenizer.model, models.WordPiece):
        raise UsageFault(
            "text.words needs the WordPiece tokenizer of a BERT, which reads Chinese characters one"
            f" by one; this one is a {type(tokenizer.model).__name__}, whose pieces are words "
            "already; remove text.words"
        )
    pieces = {
        word: tokenizer.encode(word, add_special_tokens=False).ids
        for word in words
        if tokenizer.token_to_id(word) is None
    }
    match_words(tokenizer, pieces)
    return {tokenizer.token_to_id(word): ids for word, ids in pieces.items()}


def _merge_characters(sample: list[str], count: int) -> list[str]:
    """Return the first `count` results of byte-pair encoding, in the order of the merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"[^{CHINESE}]+"), "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=count + len(set().union(*sample)),  # each character has an id, too
        min_frequency=MIN_WORD_COUNT,
        max_token_length=MAX_CHINESE_CHARACTERS + 1,  # a bound that the library stays below
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    ids = tokenizer.get_vocab()
    words = [token for token in ids if 2 <= len(token) <= MAX_CHINESE_CHARACTERS]
    return sorted(words, key=ids.__getitem__)[:count]


def _count_matches(sample: list[str], words: list[str]) -> Counter[str]:
    """Count how often each word is matched when all are."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    match_words(tokenizer, words)

    def matched() -> Iterator[str]:
        for text in sample:
            yield from tokenizer.encode(text).tokens

    return Counter(matched())
