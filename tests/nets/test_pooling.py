"""Every pooling equals its longhand reference over real tokens, with every fusion."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import toys
from fake_cuda import batch_on_fake_cuda, fake_cuda, model_on_fake_cuda

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens, causal_mask
from wbdc.nets import pooling as poolings
from wbdc.nets.model import VideoClassifier, build_model

every_pooling = pytest.mark.parametrize("pooling", toys.POOLINGS)
every_pair = pytest.mark.parametrize(
    ("fusion", "pooling"), [(f, p) for f in toys.FUSIONS for p in toys.POOLINGS]
)
DIM = 16


def build(pooling: str) -> poolings.Pooling:
    torch.manual_seed(0)
    return plug.build_plug(poolings, {"use": pooling, **toys.POOLINGS[pooling]}, DIM).eval()


def sequences() -> tuple[Tokens, Tokens]:
    """Text of 5, 2 and 1 tokens and frames of 1, 3 and 2, with noise for padding."""
    torch.manual_seed(1)
    text = Tokens(torch.randn(3, 5, DIM), torch.arange(5) < torch.tensor([[5], [2], [1]]))
    frames = Tokens(torch.randn(3, 3, DIM), torch.arange(3) < torch.tensor([[1], [3], [2]]))
    return text, frames


def longhand_attention(pooling: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    hidden, _, output = pooling.score
    exponentials = [
        (output.weight[0] @ (hidden.weight @ x + hidden.bias).tanh()).exp() for x in tokens
    ]
    return sum(e * x for e, x in zip(exponentials, tokens, strict=True)) / sum(exponentials)


# of the real tokens of one video: words (n, D) and frames (m, D)
LONGHAND = {
    "mean": lambda pooling, words, frames: torch.cat([words, frames]).mean(0),
    "mean_by_modality": lambda pooling, words, frames: (words.mean(0) + frames.mean(0)) / 2,
    "concatenate": lambda pooling, words, frames: (
        pooling.merge.weight @ torch.cat([words.mean(0), frames.mean(0)]) + pooling.merge.bias
    ),
    "first_token": lambda pooling, words, frames: (words[0] + frames[0]) / 2,
    "max": lambda pooling, words, frames: torch.cat([words, frames]).max(0).values,
    "attention": lambda pooling, words, frames: longhand_attention(
        pooling, torch.cat([words, frames])
    ),
}


@every_pooling
@pytest.mark.parametrize("is_causal", [False, True])
def test_trap_02_and_05_a_pooling_is_that_of_the_real_tokens_alone(pooling, is_causal):
    module, (text, frames) = build(pooling), sequences()
    given = Tokens(text.x, causal_mask(text.mask)) if is_causal else text
    pooled = module(given, frames)
    assert pooled.shape == (3, DIM)
    for row in range(3):
        real = text.x[row, text.mask[row]], frames.x[row, frames.mask[row]]
        torch.testing.assert_close(pooled[row], LONGHAND[pooling](module, *real))


@every_pooling
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trap_09_poolings_stay_finite_in_half_precision(pooling, dtype):
    module, (text, frames) = build(pooling).to(dtype), sequences()
    half = module(*(Tokens(tokens.x.to(dtype), tokens.mask) for tokens in (text, frames)))
    torch.testing.assert_close(half.float(), build(pooling)(text, frames), rtol=0.1, atol=0.05)


@every_pair
def test_trap_02_and_05_padding_moves_no_logit(fusion, pooling):
    model, batch = toys.model(fusion, pooling=pooling), toys.batch()
    torch.testing.assert_close(model.logits(toys.pad(batch, 5, 2)), model.logits(batch))


@every_pair
def test_every_weight_gets_a_gradient(fusion, pooling):
    model, batch = toys.model(fusion, pooling=pooling).train(), toys.batch()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    F.cross_entropy(model.logits(batch), batch.label).backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


@every_pair
def test_a_model_is_rebuilt_with_its_pooling(fusion, pooling):
    model, batch = toys.model(fusion, pooling=pooling), toys.batch()
    tables = toys.blueprint(fusion, pooling=pooling)
    rebuilt = build_model(model.blueprint(tables["fusion"], tables["pooling"])).eval()
    rebuilt.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(rebuilt.logits(batch), model.logits(batch))


@every_pooling
def test_causal_text_is_pooled_without_a_wait_for_the_gpu(pooling):
    model, batch = toys.model(pooling=pooling), toys.batch()
    with fake_cuda():
        model, batch = model_on_fake_cuda(model), batch_on_fake_cuda(batch)
        causal = replace(batch, text_mask=causal_mask(batch.text_mask))
        assert _logits(model, batch) == _logits(model, causal) == "cuda"


def _logits(model: VideoClassifier, batch) -> str:
    return model.logits(batch).device.type


def test_a_hidden_width_of_zero_is_refused():
    with pytest.raises(UsageFault, match="pooling.hidden = 0; it must be 1 or more"):
        plug.build_plug(poolings, {"use": "attention", "hidden": 0}, DIM)
