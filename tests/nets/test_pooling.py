"""Every pooling equals its longhand reference over real tokens, with every fusion."""

import longhand_poolings
import pytest
import torch
import torch.nn.functional as F
import toys
from fake_cuda import fake_cuda, model_on_fake_cuda, tensor_on_fake_cuda

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens, causal_mask, join_tokens
from wbdc.nets import pooling as poolings
from wbdc.nets.model import build_model

every_pooling = pytest.mark.parametrize("pooling", toys.POOLINGS)
# every pooling with one fusion, and one pooling with every fusion
every_pair = pytest.mark.parametrize(
    ("fusion", "pooling"),
    [("single_stream", p) for p in toys.POOLINGS]
    + [(f, "concatenate") for f in toys.FUSIONS if f != "single_stream"],
)
clustering = pytest.mark.parametrize(
    "pooling", ["netvlad", "net_rvlad", "soft_dbow", "netfv", "nextvlad"]
)
DIM = 16


def build(pooling: str, **settings: object) -> poolings.Pooling:
    torch.manual_seed(0)
    table = {"use": pooling, **toys.POOLINGS[pooling], **settings}
    return plug.build_plug(poolings, table, DIM).eval()


def sequences() -> tuple[Tokens, Tokens]:
    """Text of 5, 2 and 1 tokens and frames of 1, 6 and 2, with noise for padding."""
    torch.manual_seed(1)
    text = Tokens(torch.randn(3, 5, DIM), torch.arange(5) < torch.tensor([[5], [2], [1]]))
    frames = Tokens(torch.randn(3, 6, DIM), torch.arange(6) < torch.tensor([[1], [6], [2]]))
    return text, frames


# of the real tokens of one video: words (n, D) and frames (m, D)
LONGHAND = {
    "mean": lambda pooling, words, frames: torch.cat([words, frames]).mean(0),
    "mean_by_modality": lambda pooling, words, frames: (words.mean(0) + frames.mean(0)) / 2,
    "concatenate": lambda pooling, words, frames: (
        pooling.merge.weight @ torch.cat([words.mean(0), frames.mean(0)]) + pooling.merge.bias
    ),
    "first_token": lambda pooling, words, frames: (words[0] + frames[0]) / 2,
    "max": lambda pooling, words, frames: torch.cat([words, frames]).max(0).values,
    "attention": lambda pooling, words, frames: longhand_poolings.attention(
        pooling, torch.cat([words, frames])
    ),
    "four_poolings": longhand_poolings.four_poolings,
    "netvlad": longhand_poolings.netvlad,
    "net_rvlad": longhand_poolings.net_rvlad,
    "soft_dbow": longhand_poolings.soft_dbow,
    "netfv": longhand_poolings.netfv,
    "nextvlad": longhand_poolings.nextvlad,
    "frame_similarity": longhand_poolings.frame_similarity,
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
    module, real = build(pooling), sequences()
    with fake_cuda():
        module = model_on_fake_cuda(module)
        text, frames = (Tokens(*map(tensor_on_fake_cuda, tokens)) for tokens in real)
        for words in (text, Tokens(text.x, causal_mask(text.mask))):
            assert module(words, frames).device.type == "cuda"


@every_pooling
def test_trap_09_rows_without_a_real_token_stay_finite(pooling):
    module, (text, frames) = build(pooling).train(), sequences()
    vectors = [tokens.x.requires_grad_() for tokens in (text, frames)]
    pooled = module(*(Tokens(x, torch.zeros(x.shape[:2], dtype=torch.bool)) for x in vectors))
    (pooled * torch.randn(DIM)).sum().backward()
    gradients = [p.grad for p in (*module.parameters(), *vectors) if p.grad is not None]
    assert all(tensor.isfinite().all() for tensor in (pooled, *gradients))


def test_trap_09_clusters_are_summed_in_float32_under_autocast():
    """Squares of these tokens overflow in float16."""
    text, frames = (Tokens(300 * tokens.x, tokens.mask) for tokens in sequences())
    module, exact = build("netfv"), build("netfv")(text, frames)
    with torch.autocast("cpu", torch.float16):
        pooled = module(text, frames)
    torch.testing.assert_close(pooled, exact, rtol=0.1, atol=0.1, check_dtype=False)


@clustering
def test_all_tokens_are_described_wherever_they_come_from(pooling):
    module, (text, frames) = build(pooling, tokens="all"), sequences()
    everything = join_tokens(text, frames)
    elsewhere = module(*_cut(everything, 2))
    torch.testing.assert_close(module(text, frames), elsewhere)
    changed = Tokens(torch.cat([text.x[:, :1] + 1, text.x[:, 1:]], 1), text.mask)
    assert (module(changed, frames) - module(text, frames)).abs().amin(1).gt(1e-4).all()


def test_patches_of_a_frame_are_averaged_before_frames_are_compared():
    torch.manual_seed(2)
    start = torch.randn(2, 1, DIM)
    patches = torch.randn(2, 4, 3, DIM)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    text, _ = sequences()
    text = Tokens(text.x[:2], text.mask[:2])
    module, by_patch = build("frame_similarity"), build("frame_similarity", tokens_per_frame=3)
    frames = Tokens(torch.cat([start, patches.mean(2)], 1), mask)
    patch_mask = torch.cat([mask[:, :1], mask[:, 1:].repeat_interleave(3, 1)], 1)
    patch_tokens = Tokens(torch.cat([start, patches.flatten(1, 2)], 1), patch_mask)
    torch.testing.assert_close(
        module(text, frames) - join_tokens(text, frames).mean(),
        by_patch(text, patch_tokens) - join_tokens(text, patch_tokens).mean(),
    )


def test_tokens_that_do_not_divide_into_frames_are_refused():
    with pytest.raises(UsageFault, match="tokens_per_frame = 4 does not divide the 5 tokens"):
        build("frame_similarity", tokens_per_frame=4)(*sequences())


@pytest.mark.parametrize(
    ("pooling", "settings", "message"),
    [
        ("attention", {"hidden": 0}, "pooling.hidden = 0; it must be 1 or more"),
        ("four_poolings", {"hidden": 0}, "pooling.hidden = 0; it must be 1 or more"),
        ("netvlad", {"clusters": 0}, "pooling 'netvlad': clusters = 0; it must be at least 1"),
        ("netfv", {"tokens": "frame"}, "no tokens called 'frame'; did you mean 'frames'"),
        ("nextvlad", {"groups": 5}, "groups = 5 does not divide the expanded width of 32"),
        ("frame_similarity", {"shifts": 32}, "shifts = 32; it must be between 1 and 31"),
    ],
)
def test_a_setting_out_of_bounds_is_refused(pooling, settings, message):
    with pytest.raises(UsageFault, match=message):
        plug.build_plug(poolings, {"use": pooling, **settings}, DIM)


def _cut(tokens: Tokens, size: int) -> tuple[Tokens, Tokens]:
    """Divide sequences after `size` tokens."""
    return (
        Tokens(tokens.x[:, :size], tokens.mask[:, :size]),
        Tokens(tokens.x[:, size:], tokens.mask[:, size:]),
    )
