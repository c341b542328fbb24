"""Kits with `text.words`: training, export and serving read the same tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from wbdc.data.special_tokens import SPECIAL_TOKENS
from wbdc.data.text import list_tokens
from wbdc.data.words import is_chinese_word
from wbdc.prepare.dataset import open_prepared
from wbdc.serve.members import load_member
from wbdc.train.initial_model import build_initial_model
from wbdc.train.kit import open_kit

WORDS = "text.words=30"
MODEL = "toys/bert"


def learned_words(tokenizer) -> list[str]:
    return [token for token in list_tokens(tokenizer) if is_chinese_word(token)]


def test_a_fold_is_exported_with_its_words(fresh, kit):
    masked = 'train.objective=[{ use = "classify" }, { use = "mask_words", unit = "word" }]'
    report = toys.run_json(
        *("train", "--kit", kit, "--set", WORDS, "--set", masked),
        *("--fold", 0, "--work", fresh, *toys.SHORT),
    )
    folder = Path(report["folder"]) / "fold-0"
    member = load_member(folder)
    words = learned_words(member.text.tokenizer)
    assert 10 < len(words) <= 30
    rows = load_file(folder / "model.safetensors")["fusion.trunk.embeddings.word_embeddings.weight"]
    assert len(rows) == member.text.tokenizer.get_vocab_size()

    initial = build_initial_model(open_kit(str(kit), changes=(WORDS,)), open_prepared(fresh), 0)
    assert initial.weights["trunk"].endswith(
        f"{len(words)} words begin as the mean of their characters"
    )
    texts = [{"title": f"{word}一{word}", "asr": "", "ocr": word * 2} for word in words]
    served = member.encode_text(texts)
    assert served == initial.input_spec.text(texts)
    numbers = [member.text.tokenizer.token_to_id(word) for word in words]
    assert all(ids.count(number) == 4 for ids, number in zip(served, numbers, strict=True))


@pytest.fixture
def pretrained_bert(tmp_path, monkeypatch) -> torch.Tensor:
    """A BERT with a vocab.txt of the characters of the texts; returns its word embeddings."""
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    tokens = [*SPECIAL_TOKENS, *map(chr, range(0x4E00, 0xA000))]
    bert = BertModel(BertConfig(**toys.BERT_CONFIG | {"vocab_size": len(tokens)}))
    bert.save_pretrained(tmp_path / MODEL)
    (tmp_path / MODEL / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    return bert.embeddings.word_embeddings.weight.detach()


def test_a_pretrained_model_gets_words(pretrained_bert, ready, kit, tmp_path):
    path = tmp_path / "pretrained.toml"
    text, rest = kit.read_text().split("[trunk.architecture]")
    text = text.replace("vocabulary = { min_count = 2, max_size = 400 }", "words = 30")
    path.write_text(f'{text}[trunk]\nmodel = "{MODEL}"\n[vision]{rest.split("[vision]")[1]}')
    initial = build_initial_model(open_kit(str(path)), open_prepared(ready), 0)
    weight = initial.model.trunk.embeddings.word_embeddings.weight.detach()
    tokenizer = initial.input_spec.text.tokenizer
    words = learned_words(tokenizer)
    assert 10 < len(words) <= 30
    assert torch.equal(weight[: len(pretrained_bert)], pretrained_bert)
    for number, word in enumerate(words, len(pretrained_bert)):
        characters = [tokenizer.token_to_id(c) for c in word]
        expected = pretrained_bert[characters].mean(0)
        np.testing.assert_allclose(weight[number].numpy(), expected.numpy(), rtol=1e-5, atol=1e-7)
