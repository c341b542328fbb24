"""Special tokens: what each does, and its names in the vocabularies of text models."""

from typing import TYPE_CHECKING

from wbdc.core.errors import UsageFault

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# of XLNet and RoBERTa; "<s>" and "</s>" have another meaning in a vocabulary with "<cls>"
OTHER_NAMES = {
    "[PAD]": ("<pad>",),
    "[UNK]": ("<unk>",),
    "[CLS]": ("<cls>", "<s>"),
    "[SEP]": ("<sep>", "</s>"),
    "[MASK]": ("<mask>",),
}


def special_token_names(tokenizer: "Tokenizer") -> dict[str, str]:
    """Return the name of each of SPECIAL_TOKENS in the vocabulary of a tokenizer.

    Raises UsageFault for a tokenizer that lacks one.
    """
    names: dict[str, str] = {}
    for token in SPECIAL_TOKENS:
        candidates = (token, *OTHER_NAMES[token])
        known = [name for name in candidates if tokenizer.token_to_id(name) is not None]
        if not known:
            raise UsageFault(
                f"the tokenizer has no token called {' or '.join(candidates)}; choose a text model "
                "that was pretrained with masked words, for example a BERT"
            )
        names[token] = known[0]
    return names


def special_token_ids(tokenizer: "Tokenizer") -> dict[str, int]:
    """Return the id of each of SPECIAL_TOKENS. Raises as `special_token_names` does."""
    return {
        token: tokenizer.token_to_id(name) for token, name in special_token_names(tokenizer).items()
    }
