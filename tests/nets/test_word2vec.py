"""The lookup of the vectors of speech tokens, by hashes."""

import pytest
import torch

from wbdc.core.errors import UsageFault
from wbdc.core.token_hashes import hash_token, join_bytes
from wbdc.core.tokens import Tokens
from wbdc.nets.modality.word2vec import Word2Vec
from wbdc.nets.modality_tokens import ModalityTokens

WORDS = [f"word{i}" for i in range(30)]
KNOWN = WORDS[:20]


@pytest.fixture
def tower() -> Word2Vec:
    """A tower that knows the first 20 words."""
    torch.manual_seed(0)
    hashes = join_bytes(torch.tensor([hash_token(word) for word in KNOWN]).float())
    order = hashes.argsort()
    tower = Word2Vec(dim=5, steps=9)
    tower.set_vectors(hashes[order], torch.randn(20, 5)[order])
    return tower


@torch.no_grad()
def test_the_lookup_equals_a_dictionary(tower):
    vectors = {}
    for number, value in enumerate(tower.hashes.tolist()):
        vectors[value] = tower.vectors.weight[number]
    hashes = [int.from_bytes(bytes(hash_token(word)), "big") for word in WORDS]
    expected = torch.stack([vectors.get(value, torch.zeros(5)) for value in hashes])
    assert expected[20:].eq(0).all(), "unknown tokens begin with zeros"
    assert expected[:20].any(1).all()

    rows = torch.tensor([hash_token(word) for word in WORDS]).view(5, 6, 4).float()
    mask = torch.rand(5, 6) < 0.5
    encoded = tower(Tokens(rows, mask))
    assert torch.equal(encoded.x, expected.view(5, 6, 5))
    assert torch.equal(encoded.mask, mask)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_finds_the_same_tokens(tower, precision):
    tokens = ModalityTokens("speech", tower, 5)
    rows = torch.tensor([hash_token(word) for word in WORDS]).view(5, 6, 4).half()
    found = []
    tower.register_forward_hook(lambda module, inputs, output: found.append(output.x))
    for is_enabled in (False, True):
        with torch.autocast("cpu", precision, enabled=is_enabled):
            tokens(Tokens(rows, torch.ones(5, 6, dtype=bool)))
    assert torch.equal(*found)
    assert found[0].any(2).sum() == 20


def test_a_blueprint_rebuilds_the_tower(tower):
    blueprint = tower.blueprint()
    assert blueprint.pop("use") == "word2vec"
    rebuilt = Word2Vec(**blueprint)
    rebuilt.load_state_dict(tower.state_dict(), strict=True)
    assert torch.equal(rebuilt.hashes, tower.hashes)
    assert rebuilt.hashes.dtype == torch.int64


def test_frozen_vectors_are_not_trained(tower):
    assert tower.vectors.weight.requires_grad
    frozen = Word2Vec(dim=5, frozen=True)
    assert not frozen.vectors.weight.requires_grad
    frozen.set_vectors(tower.hashes, torch.randn(20, 5))
    assert not frozen.vectors.weight.requires_grad


@pytest.mark.parametrize("setting", ["dim", "size", "min_count", "window", "epochs"])
def test_settings_of_zero_are_refused(setting):
    with pytest.raises(UsageFault, match=f"modality 'word2vec': {setting} = 0"):
        Word2Vec(**{setting: 0})
