"""Layer-wise decay: the rate of every weight by hand, and a decay of 1 changes nothing."""

import pytest
import torch
import toys
from torch import nn

from wbdc.core.errors import UsageFault
from wbdc.nets.model import VideoClassifier
from wbdc.train.layer_decay import layer_numbers, layer_rate_factors
from wbdc.train.optimizer import build_adamw, named_parameters, parameter_groups

RATES = {"fusion.trunk": 1e-4, "vision": 1e-5, "rest": 1e-3}
DECAYS = {"fusion.trunk": 0.9, "vision": 0.5}
# of toys.model: a BERT of two layers, and a ViT of three
BERT = {
    "embeddings.": 1e-4 * 0.9**2,
    "encoder.layer.0.": 1e-4 * 0.9,
    "encoder.layer.1.": 1e-4,
}
VIT_ARCHITECTURE = {**toys.VIT, "vision_cfg": {**toys.VIT["vision_cfg"], "layers": 3}}
VIT = {
    "class_embedding": 1e-5 * 0.5**3,
    "positional_embedding": 1e-5 * 0.5**3,
    "conv1.": 1e-5 * 0.5**3,
    "ln_pre.": 1e-5 * 0.5**3,
    "transformer.resblocks.0.": 1e-5 * 0.5**2,
    "transformer.resblocks.1.": 1e-5 * 0.5,
    "transformer.resblocks.2.": 1e-5,
    "ln_post.": 1e-5,
    "proj": 1e-5,
}
EXPECTED = {f"fusion.trunk.{name}": rate for name, rate in BERT.items()} | {
    f"vision.tower.{name}": rate for name, rate in VIT.items()
}


def adamw(model: VideoClassifier, decays: dict[str, float]) -> torch.optim.AdamW:
    names = [name for name, _ in named_parameters(model, nn.ModuleList())]
    groups = parameter_groups(model, nn.ModuleList(), RATES)
    return build_adamw(groups, RATES, 0.01, layer_rate_factors(names, RATES, decays))


def tower(**settings: object) -> VideoClassifier:
    return toys.model(architecture=VIT_ARCHITECTURE, **settings)


def test_the_rate_of_every_weight_is_that_of_its_layer():
    model = tower()
    optimizer = adamw(model, DECAYS)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert all(group["lr"] == group["base"] for group in optimizer.param_groups)
    assert len(rates) == sum(len(g["params"]) for g in optimizer.param_groups)
    assert len(rates) == sum(1 for _ in model.parameters()), "no weight is lost"

    matched_prefixes = set()
    for name, weight in model.named_parameters():
        prefix = next((prefix for prefix in EXPECTED if name.startswith(prefix)), None)
        matched_prefixes.add(prefix)
        assert rates[id(weight)] == pytest.approx(EXPECTED.get(prefix, 1e-3)), name
        assert decays[id(weight)] == (0.01 if weight.dim() > 1 else 0.0), name
    assert matched_prefixes == {*EXPECTED, None}, "every line of the tables names a weight"


def test_a_decay_of_one_trains_the_same_bits():
    trained = []
    for decays in ({}, {"fusion.trunk": 1.0, "vision": 1.0}):
        model = tower().train()
        optimizer = adamw(model, decays)
        for _ in range(3):
            model.logits(toys.batch()).logsumexp(1).sum().backward()
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(weights, 0.1)
            optimizer.step()
            optimizer.zero_grad()
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_a_frozen_part_has_layers_but_no_groups():
    optimizer = adamw(tower(frozen=True), DECAYS)
    assert {group["lr"] for group in optimizer.param_groups} == {
        1e-3,
        1e-4,
        1e-4 * 0.9,
        1e-4 * 0.9**2,
    }


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (  # Swin: blocks are counted through the stages, which begin with their downsampling
            [
                "patch_embed.proj.weight",
                "layers.0.blocks.0.attn.relative_position_bias_table",
                "layers.0.blocks.1.mlp.fc1.weight",
                "layers.1.downsample.norm.weight",
                "layers.1.blocks.0.mlp.fc1.weight",
                "norm.weight",
            ],
            [0, 1, 2, 2, 3, 3],
        ),
        (  # ViT of timm
            ["cls_token", "pos_embed", "blocks.0.mlp.0.weight", "blocks.1.mlp.1.bias", "norm.bias"],
            [0, 0, 1, 2, 2],
        ),
        (  # ConvNeXt: the numbers of the stem and of a downsampling are no layers
            [
                "stem.0.weight",
                "stages.0.blocks.0.gamma",
                "stages.1.downsample.1.weight",
                "stages.1.blocks.0.gamma",
                "head.norm.weight",
            ],
            [0, 1, 1, 2, 2],
        ),
        (  # ResNet
            [
                "conv1.0.weight",
                "layer1.0.conv1.weight",
                "layer1.0.downsample.0.weight",
                "layer2.0.conv1.weight",
                "layer2.1.conv1.weight",
            ],
            [0, 1, 1, 2, 3],
        ),
        (["blocks.0.0.conv.weight", "blocks.0.1.conv.weight", "blocks.1.0.conv.weight"], [1, 2, 3]),
        (  # a small ELECTRA widens its embeddings after the encoder
            ["embeddings.word.weight", "encoder.layer.0.x", "embeddings_project.weight"],
            [0, 1, 0],
        ),
        (["linear.weight", "mlp.0.weight"], [0, 0]),
        ([], []),
    ],
)
def test_layers_are_found_by_the_numbers_in_names(names, numbers):
    assert layer_numbers(names) == numbers


# the layers of each fusion's own weights, and the layer of one of these weights
FUSION_LAYERS = {
    "albef": (2, {"frame_encoder.blocks.0": 1, "frame_encoder.norm": 1, "cross_layers.0": 2}),
    "bottleneck": (2, {"bottleneck": 0, "layers.0": 1, "layers.1": 2, "text_norm": 2}),
    "cross_attention": (
        2,
        {"text_to_frames.0": 1, "text_to_frames.1": 2, "frames_to_text.0": 1, "text_norm": 2},
    ),
    "dual_stream": (2, {"blocks.0": 1, "blocks.1": 2, "norm": 2}),
    "late": (1, {"frame_encoder.blocks.0": 1}),
    "lxmert": (2, {"layers.0": 1, "layers.1": 2}),
    "alpro": (0, {}),
    "single_stream": (0, {}),
}


@pytest.mark.parametrize("fusion", toys.FUSIONS)
def test_the_layers_of_every_fusion_are_found(fusion):
    model = toys.model(fusion, layers=2, pooling="attention")
    names = [name for name, _ in named_parameters(model, nn.ModuleList())]
    rates = {"fusion": 1e-3, "fusion.trunk": 1e-4, "rest": 1e-3}
    depth, expected = FUSION_LAYERS[fusion]
    if not depth:
        message = "layer_decay of 'fusion': .*; parts of learning_rate with layers: fusion.trunk$"
        with pytest.raises(UsageFault, match=message):
            layer_rate_factors(names, rates, {"fusion": 0.5})
        return

    factors = layer_rate_factors(names, rates, {"fusion": 0.5})
    for prefix, layer in {**expected, "pooling": depth}.items():
        found = {f for n, f in factors.items() if n.startswith(f"fusion.{prefix}")}
        assert found == {0.5 ** (depth - layer)}, prefix


def test_a_part_without_layers_is_refused():
    message = "layer_decay of 'head': this part has no numbered layers.* with layers: none$"
    with pytest.raises(UsageFault, match=message):
        layer_rate_factors(["head.weight"], {"head": 1e-3, "rest": 1e-3}, {"head": 0.9})


def test_a_part_inside_another_keeps_its_own_layers():
    names = ["fusion.trunk.encoder.layer.0.w", "fusion.blocks.0.w", "fusion.blocks.1.w"]
    rates = {"fusion": 1e-3, "fusion.trunk": 1e-4, "rest": 1e-3}
    factors = layer_rate_factors(names, rates, {"fusion": 0.5})
    assert factors == {"fusion.blocks.0.w": 0.5, "fusion.blocks.1.w": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{ vison = 0.9 }", "did you mean 'vision'"),
        ("{ rest = 0.9 }", "layer_decay of 'rest': name a part .* other than 'rest'"),
        ("{ vision = 0.0 }", "= 0.0; it must be a number above 0"),
        ("{ vision = 1.5 }", "= 1.5; it must be a number above 0"),
        ("{ fusion.trunk = 0.9 }", "layer_decay of 'fusion' = .*in quotes"),
    ],
)
def test_a_wrong_layer_decay_of_a_kit_is_refused(kit, change, message):
    from wbdc.train.kit import open_kit

    with pytest.raises(UsageFault, match=message):
        open_kit(str(kit), changes=(f"train.layer_decay={change}",))


def test_training_reports_the_range_of_the_rates(fresh, kit):
    result = toys.wbdc(
        *("train", "--kit", kit, "--work", fresh, "--fold", 0, "--threads", 1),
        *("--set", "train.epochs=1", "--set", "train.layer_decay={vision=0.5}"),
    )
    assert result.exit_code == 0, result.stderr
    line = next(line for line in result.stderr.splitlines() if "trains vision" in line)
    assert "learning rates 0.0015 to 0.003" in line
    line = next(line for line in result.stderr.splitlines() if "trains rest" in line)
    assert "learning rate 0.003" in line
