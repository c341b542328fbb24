"""Fusions equal their arithmetic in transformers, or written longhand over real tokens."""

import pytest
import torch
import toys
from torch import Tensor
from transformers import LxmertConfig
from transformers.models.lxmert.modeling_lxmert import LxmertXLayer

from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens
from wbdc.nets.attention import PostNormAttention
from wbdc.nets.cross_modality_layer import CrossModalityLayer
from wbdc.nets.model import VideoClassifier, build_fusion
from wbdc.nets.trunk import Trunk
from wbdc.train.kit import open_kit
from wbdc.train.layer_decay import layer_rate_factors
from wbdc.train.optimizer import named_parameters
from wbdc.train.repeated_layers import repeated_layers

DIM = 16
BERT_LAYERS = ["fusion.trunk.encoder.layer.0", "fusion.trunk.encoder.layer.1"]
OWN_LAYERS = {
    "albef": ["fusion.frame_encoder.blocks.0", "fusion.cross_layers.0"],
    "alpro": [],
    "bottleneck": ["fusion.layers.0", "fusion.layers.1"],
    "late": ["fusion.frame_encoder.blocks.0"],
    "lxmert": ["fusion.layers.0"],
}
every_new_fusion = pytest.mark.parametrize("fusion", OWN_LAYERS)


def sequences() -> tuple[Tokens, Tokens]:
    """Text of 5, 2 and 1 tokens and frames of 1, 3 and 2, with noise for padding."""
    torch.manual_seed(1)
    text = Tokens(torch.randn(3, 5, DIM), torch.arange(5) < torch.tensor([[5], [2], [1]]))
    frames = Tokens(torch.randn(3, 3, DIM), torch.arange(3) < torch.tensor([[1], [3], [2]]))
    return text, frames


def one_video(tokens: Tokens, row: int) -> Tokens:
    """Return the real tokens of one video: (1, n, D)."""
    x = tokens.x[row, tokens.mask[row]][None]
    return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool))


def assert_videos_equal(fused: tuple[Tokens, Tokens], row: int, text: Tensor, frames: Tensor):
    for tokens, expected in zip(fused, (text, frames), strict=True):
        torch.testing.assert_close(tokens.x[row, tokens.mask[row]], expected)


def rename(name: str) -> str:
    """Return the name of transformers for a weight of a cross-modality layer."""
    part, *inner, kind = name.split(".")
    attentions = {
        "cross_attention": ("visual_attention.att", "visual_attention.output"),
        "text_attention": ("lang_self_att.self", "lang_self_att.output"),
        "frames_attention": ("visn_self_att.self", "visn_self_att.output"),
    }
    if part in attentions:
        projections, output = attentions[part]
        module = {"out": f"{output}.dense", "norm": f"{output}.LayerNorm"}.get(
            inner[0], f"{projections}.{inner[0]}"
        )
    else:
        side = {"text_ffn": "lang", "frames_ffn": "visn"}[part]
        modules = {"ffn.0": "inter.dense", "ffn.2": "output.dense", "norm": "output.LayerNorm"}
        module = f"{side}_{modules['.'.join(inner)]}"
    return f"{module}.{kind}"


def test_a_cross_modality_layer_is_that_of_transformers():
    torch.manual_seed(0)
    layer = CrossModalityLayer(DIM, heads=4, dropout=0.0).eval()
    config = LxmertConfig(hidden_size=DIM, num_attention_heads=4, intermediate_size=4 * DIM)
    reference = LxmertXLayer(config).eval()
    reference.load_state_dict({rename(n): w for n, w in layer.state_dict().items()}, strict=True)
    for module in reference.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5  # the default of torch; transformers has 1e-12

    text, frames = sequences()
    masks = [(~t.mask * torch.finfo(torch.float32).min)[:, None, None] for t in (text, frames)]
    expected = reference(text.x, masks[0], frames.x, masks[1])
    fused = layer(text, frames)
    for row in range(3):
        real = (x[row, t.mask[row]] for x, t in zip(expected, fused, strict=True))
        assert_videos_equal(fused, row, *real)


def test_the_layers_of_lxmert_run_one_after_the_other():
    fusion = toys.model("lxmert", layers=2).fusion
    text, frames = sequences()
    fused = fusion(text, frames)
    expected = fusion.layers[1](*fusion.layers[0](fusion.trunk(text), frames))
    assert torch.equal(fused.text.x, expected[0].x)
    assert torch.equal(fused.frames.x, expected[1].x)


def test_bottleneck_tokens_are_the_mean_of_what_both_modalities_write():
    """One video at a time, without padding, through the sublayers of each block."""
    fusion = toys.model("bottleneck", layers=3).fusion
    tokens = sequences()
    fused = fusion(*tokens)
    for row in range(3):
        text, frames = fusion.trunk(one_video(tokens[0], row)).x, one_video(tokens[1], row).x
        shared = fusion.bottleneck
        for layer in fusion.layers:
            written = []
            sides = []
            for block, own in ((layer.text_block, text), (layer.frames_block, frames)):
                joined = torch.cat([own, shared], 1)
                mask = torch.ones(joined.shape[:2], dtype=torch.bool)
                out = block(Tokens(joined, mask), Tokens(joined, mask)).x
                sides.append(out[:, : own.shape[1]])
                written.append(out[:, own.shape[1] :])
            text, frames = sides
            shared = (written[0] + written[1]) / 2
        both = fusion.text_norm(text)[0], fusion.frames_norm(frames)[0]
        assert_videos_equal((fused.text, fused.frames), row, *both)


def test_albef_attends_to_frames_before_each_upper_layer():
    fusion = toys.model("albef").fusion
    tokens = sequences()
    fused = fusion(*tokens)
    for row in range(3):
        text, frames = one_video(tokens[0], row), one_video(tokens[1], row)
        lower, upper = fusion.trunk.encoder.layer
        frames = fusion.frame_encoder.norm(fusion.frame_encoder.blocks[0](frames, frames).x)
        words = longhand_cross_attention(fusion.cross_layers[0], lower(text.x)[0], frames[0])
        assert_videos_equal((fused.text, fused.frames), row, upper(words[None])[0], frames[0])


def longhand_cross_attention(layer: PostNormAttention, words: Tensor, frames: Tensor) -> Tensor:
    """words (n, D), frames (m, D): attention of torch with the weights of the layer."""
    attention = torch.nn.MultiheadAttention(DIM, layer.heads, batch_first=True)
    projections = (layer.query, layer.key, layer.value)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        attention.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        attention.out_proj.load_state_dict(layer.out.state_dict())
    return layer.norm(words + attention(words, frames, frames)[0])


def test_alpro_joins_both_sequences_after_the_first_layers():
    fusion = toys.model("alpro").fusion
    tokens = sequences()
    fused = fusion(*tokens)
    for row in range(3):
        text, frames = one_video(tokens[0], row).x, one_video(tokens[1], row).x
        lower, upper = fusion.trunk.encoder.layer
        joined = upper(torch.cat([lower(text), frames], 1))[0]
        words = text.shape[1]
        assert_videos_equal((fused.text, fused.frames), row, joined[:words], joined[words:])


def test_late_fusion_combines_by_the_pooling_only():
    fusion = toys.model("late", pooling="mean_by_modality").fusion
    text, frames = sequences()
    fused = fusion(text, frames)
    assert fused.unimodal == (fused.text, fused.frames)
    torch.testing.assert_close(fused.text.x, fusion.trunk(text).x)
    other = fusion(Tokens(text.x + 1, text.mask), frames)
    assert torch.equal(other.frames.x, fused.frames.x)
    torch.testing.assert_close(fused.pooled, (fused.text.mean() + fused.frames.mean()) / 2)


@every_new_fusion
def test_layers_are_found_and_decayed(fusion):
    """By checkpointing, sharding and compiling; and by layer-wise rates of the part "fusion"."""
    model = toys.model(fusion, "features")
    assert sorted(repeated_layers(model)) == sorted(BERT_LAYERS + OWN_LAYERS[fusion])
    names = [name for name, _ in named_parameters(model, torch.nn.ModuleList())]
    rates = {"fusion": 1e-3, "fusion.trunk": 1e-4, "rest": 1e-3}
    factors = layer_rate_factors(names, rates, {"fusion.trunk": 0.5})
    assert factors["fusion.trunk.encoder.layer.0.output.dense.weight"] == 0.5
    if fusion == "bottleneck":
        factors = layer_rate_factors(names, rates, {"fusion": 0.5})
        assert factors["fusion.layers.0.text_block.out.weight"] == 0.5
        assert factors["fusion.layers.1.frames_block.out.weight"] == 1.0


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_every_fusion_replaces_that_of_a_tiny_kit(fusion):
    heads = {"alpro": "", "single_stream": ""}.get(fusion, ", heads = 4")
    change = f'fusion={{ use = "{fusion}"{heads} }}'
    kit = open_kit("dual_stream", tiny=True, changes=(change,))
    trunk = Trunk(kit.tables["trunk"]["architecture"] | {"vocab_size": 50})
    assert type(build_fusion(kit.tables, trunk)).__name__.lower() == fusion.replace("_", "")


def build(fusion: str, **settings: object) -> VideoClassifier:
    table = {"use": fusion, **toys.FUSIONS[fusion], **settings}
    return build_fusion({"fusion": table, "pooling": {"use": "mean"}}, Trunk(toys.TRUNK))


@pytest.mark.parametrize(
    ("fusion", "settings", "message"),
    [
        ("albef", {"text_layers": 2}, "'albef' with a trunk of 2 layers: text_layers = 2; it must"),
        ("alpro", {"text_layers": 0}, "text_layers = 0; it must be between 1 and 1"),
        ("albef", {"frame_layers": -1}, "frame_layers = -1; it must be at least 0"),
        ("late", {"heads": 3}, "fusion.heads = 3 does not divide the trunk's width of 16"),
        ("lxmert", {"dropout": 1.5}, "dropout = 1.5; it must be between 0 and 1"),
        ("lxmert", {"layers": 0}, "fusion 'lxmert': layers = 0; it must be at least 1"),
        ("bottleneck", {"layers": 1}, "fusion 'bottleneck': layers = 1; it must be at least 2"),
        ("bottleneck", {"tokens": 0}, "fusion 'bottleneck': tokens = 0; it must be at least 1"),
    ],
)
def test_a_setting_out_of_bounds_is_refused(fusion, settings, message):
    with pytest.raises(UsageFault, match=message):
        build(fusion, **settings)


def test_a_trunk_of_one_layer_cannot_be_split(monkeypatch):
    monkeypatch.setitem(toys.TRUNK, "num_hidden_layers", 1)
    with pytest.raises(UsageFault, match="'alpro' splits the layers of the trunk, which has 1;"):
        build("alpro")
