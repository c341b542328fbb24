"""Published checkpoints of TPN: the layouts of MMAction2 and of its authors give the outputs of
networks that are written out as they are published, narrow and with random weights.
"""

import re

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.core.plug import build_plug
from wbdc.nets import vision as visions

LENGTH = 4
STAGES = (8, 8, 8, 16)  # inner channels of the blocks; four times as many go out
INNER, WIDTH = 32, 64  # 1024 and 2048 as published
IMAGE = {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}


def conv(inputs: int, outputs: int, *kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv3d:
    padding = tuple(side // 2 for side in kernel)
    strides = (1, stride, stride)
    return nn.Conv3d(inputs, outputs, kernel, strides, padding, groups=groups, bias=False)


class Block(nn.Module):
    """A bottleneck of a 3D network; the kernels of a 2D network have one frame."""

    def __init__(self, inputs: int, inner: int, stride: int, blocks: str, *, is_inflated: bool):
        super().__init__()
        self.blocks = blocks
        self.conv1 = conv(inputs, inner, 3 if is_inflated else 1, 1, 1)
        self.conv2 = conv(inner, inner, 1, 3, 3, stride=stride)
        self.conv3 = conv(inner, 4 * inner, 1, 1, 1)
        self.bn1, self.bn2 = nn.BatchNorm3d(inner), nn.BatchNorm3d(inner)
        self.bn3 = nn.BatchNorm3d(4 * inner)
        self.downsample = None
        if stride > 1 or inputs != 4 * inner:
            shortcut = conv(inputs, 4 * inner, 1, 1, 1, stride=stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(4 * inner))

    def forward(self, x: Tensor) -> Tensor:
        moved = x
        if self.blocks != "slow_only":
            fold = x.shape[1] // 8
            moved = x.clone()
            moved[:, : 2 * fold] = 0
            moved[:, :fold, :-1] = x[:, :fold, 1:]
            moved[:, fold : 2 * fold, 1:] = x[:, fold : 2 * fold, :-1]
        out = F.relu(self.bn1(self.conv1(moved)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            x = self.downsample(moved if self.blocks == "tsm_inplace" else x)
        return F.relu(out + x)


class Backbone(nn.Module):
    def __init__(self, blocks: str):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64, 1, 7, 7, stride=2), nn.BatchNorm3d(64)
        inputs = 64
        for i, inner in enumerate(STAGES):
            inflated = blocks == "slow_only" and i >= 2
            parts = []
            for stride in (1 if i == 0 else 2, 1):
                parts.append(Block(inputs, inner, stride, blocks, is_inflated=inflated))
                inputs = 4 * inner
            self.add_module(f"layer{i + 1}", nn.Sequential(*parts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(x))), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        res4 = self.layer3(self.layer2(self.layer1(x)))
        return res4, self.layer4(res4)


class ConvModule(nn.Module):
    """Of MMAction2: a convolution and perhaps a batch norm, without or with ReLU."""

    def __init__(self, layer: nn.Conv3d, *, has_norm: bool = True):
        super().__init__()
        self.conv = layer
        if has_norm:
            self.bn = nn.BatchNorm3d(layer.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x))) if hasattr(self, "bn") else self.conv(x)


def wrapped(layer: nn.Conv3d, *, has_norm: bool) -> nn.Module:
    return nn.ModuleDict({"conv": ConvModule(layer, has_norm=has_norm)})


class LevelFusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.downsamples = nn.ModuleList(
            wrapped(conv(INNER, INNER, 1, 1, 1, groups=32), has_norm=True) for _ in range(2)
        )
        self.fusion_conv = ConvModule(conv(2 * INNER, WIDTH, 1, 1, 1))

    def forward(self, levels: list[Tensor]) -> Tensor:
        maps = [part["conv"](x) for part, x in zip(self.downsamples, levels, strict=True)]
        return self.fusion_conv(torch.cat(maps, 1))


class Neck(nn.Module):
    """The pyramid of MMAction2 with the settings of its published networks."""

    def __init__(self, inputs: int):
        super().__init__()
        modulation = ConvModule(conv(inputs, WIDTH, 1, 3, 3, stride=2))
        self.spatial_modulation = nn.Module()
        self.spatial_modulation.spatial_modulation = nn.ModuleList(
            [nn.ModuleList([modulation]), nn.Identity()]
        )
        self.temporal_modulation_ops = nn.ModuleList(
            wrapped(conv(WIDTH, INNER, 3, 1, 1, groups=32), has_norm=False) for _ in range(2)
        )
        self.downsample_ops = nn.ModuleList([wrapped(conv(INNER, INNER, 3, 1, 1), has_norm=False)])
        self.level_fusion_1, self.level_fusion_2 = LevelFusion(), LevelFusion()
        self.pyramid_fusion = ConvModule(conv(2 * WIDTH, WIDTH, 1, 1, 1))
        self.aux_head = nn.ModuleDict(
            {"conv": ConvModule(conv(inputs, WIDTH, 1, 3, 3)), "fc": nn.Linear(WIDTH, 5)}
        )

    def forward(self, res4: Tensor, res5: Tensor) -> Tensor:
        levels = [self.spatial_modulation.spatial_modulation[0][0](res4), res5]
        fine, coarse = (
            F.max_pool3d(part["conv"](x), (LENGTH, 1, 1), ceil_mode=True)
            for part, x in zip(self.temporal_modulation_ops, levels, strict=True)
        )
        fine = fine + coarse
        top_down = self.level_fusion_1([fine, coarse])
        coarse = coarse + self.downsample_ops[0]["conv"](fine)
        bottom_up = self.level_fusion_2([fine, coarse])
        return self.pyramid_fusion(torch.cat([top_down, bottom_up], 1))


AUTHORS = (  # from the names of MMAction2
    (r"^neck\.", "necks."),
    (r"^necks\.aux_head\.conv\.", "necks.aux_head.convs.0."),
    (r"_ops\.(\d)\.conv\.conv\.", r"_ops.\1.conv."),
    (r"\.downsample_ops\.", ".downsampling_ops."),
    (r"\.downsamples\.(\d)\.conv\.conv\.", r".ops.\1.conv."),
    (r"\.downsamples\.(\d)\.conv\.bn\.", r".ops.\1.norm."),
    (r"\.level_fusion_1\.", ".level_fusion_op2."),
    (r"\.level_fusion_2\.", ".level_fusion_op."),
    (r"\.pyramid_fusion\.", ".pyramid_fusion_op."),
    (r"(fusion_conv|fusion_op)\.conv\.", r"\1.0."),
    (r"(fusion_conv|fusion_op)\.bn\.", r"\1.1."),
)
MMACTION = (  # from the names of the authors
    (r"(^backbone\.|\.)conv(\d)\.weight$", r"\1conv\2.conv.weight"),
    (r"(^backbone\.|\.)bn(\d)\.", r"\1conv\2.bn."),
    (r"(backbone.*)\.downsample\.0\.", r"\1.downsample.conv."),
    (r"(backbone.*)\.downsample\.1\.", r"\1.downsample.bn."),
)


def published_tensors(network: nn.Module, blocks: str, layout: str) -> dict[str, Tensor]:
    published = {}
    for name, tensor in network.state_dict().items():
        is_of_2d_backbone = blocks != "slow_only" and name.startswith("backbone.")
        for pattern, replacement in AUTHORS if layout == "authors" else MMACTION:
            name = re.sub(pattern, replacement, name)
        if layout == "mmaction2" and blocks == "tsm":
            name = re.sub(r"(layer.*conv1\.conv)\.weight", r"\1.net.weight", name)
        published[name] = tensor.squeeze(2) if is_of_2d_backbone and tensor.dim() == 5 else tensor
    return published


def published_network(blocks: str) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Module()
    network.backbone = Backbone(blocks)
    network.neck = Neck(4 * STAGES[2])
    network.cls_head = nn.ModuleDict({"fc_cls": nn.Linear(WIDTH, 5)})
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                tensor.add_(0.1 * torch.rand_like(tensor))
    return network.eval()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Build narrow ResNets by timm, and read weights from a folder of the test."""
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda *_, **__: ResNet(Bottleneck, (2, 2, 2, 2), num_classes=0, channels=STAGES),
    )
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "published").mkdir()
    return tmp_path / "published"


def build(blocks: str, weights: str | None = "published", **settings: object) -> nn.Module:
    table = {
        "use": "tpn",
        "tower": {"use": "timm", "model": "resnet50", "image": IMAGE, "pretrained": False},
        "frames": LENGTH,
        "weights": weights,
        "blocks": blocks,
        "rate": LENGTH,
        "fine_rate": LENGTH,
        "width": WIDTH,
    }
    return build_plug(visions, table | settings).eval()


@pytest.mark.parametrize(
    ("blocks", "layout", "example"),
    [
        ("tsm", "mmaction2", "backbone.layer1.0.conv1.conv.net.weight"),
        ("slow_only", "mmaction2", "neck.temporal_modulation_ops.1.conv.conv.weight"),
        ("tsm_inplace", "authors", "necks.level_fusion_op2.ops.0.norm.weight"),
        ("slow_only", "authors", "necks.spatial_modulation.spatial_modulation.0.0.conv.weight"),
    ],
)
def test_a_published_checkpoint_gives_the_outputs_of_its_network(blocks, layout, example, folder):
    network = published_network(blocks)
    published = published_tensors(network, blocks, layout)
    assert example in published
    save_file(published, folder / "model.safetensors")
    tower = build(blocks)
    clips = torch.randn(2, LENGTH, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network.neck(*network.backbone(clips.transpose(1, 2))).mean((3, 4))
        vectors = tower.encode(clips)
        torch.testing.assert_close(vectors[:, :, 0], expected.transpose(1, 2))
    counters = sum(name.endswith("num_batches_tracked") for name in published)
    unused = sum("aux_head" in n or "cls_head" in n for n in published) - 1  # and one counter
    assert tower.loaded == (
        f"published from model.safetensors: {len(published) - counters - unused} tensors loaded, "
        f"{counters + unused} left out (classifier, auxiliary head, counters of batches)"
    )
    rebuilt = build_plug(visions, tower.blueprint()).eval()
    rebuilt.load_state_dict(tower.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt.encode(clips), vectors)


def test_a_checkpoint_of_other_blocks_or_with_other_tensors_is_refused(folder):
    """A network of the authors, without a layer for the shift, never passes for one without it."""
    file = folder / "model.safetensors"
    save_file(published_tensors(published_network("tsm_inplace"), "tsm_inplace", "authors"), file)
    with pytest.raises(IntegrityFault, match=r"not have: backbone.layer1.0.conv1.weight"):
        build("tsm")
    with pytest.raises(IntegrityFault, match=r"of another shape: .*layer3.0.conv1.conv.weight"):
        build("slow_only")
    tensors = load_file(file)
    save_file(tensors | {"necks.other.weight": torch.ones(2)}, file)
    with pytest.raises(IntegrityFault, match="not have: necks.other.weight"):
        build("tsm_inplace")
    del tensors["necks.downsampling_ops.0.conv.weight"]
    save_file(tensors, file)
    with pytest.raises(IntegrityFault, match="lacks 1 of .* tensors: pyramid.downsample.0.weight"):
        build("tsm_inplace")
    with pytest.raises(UsageFault, match='checkpoints have blocks "tsm", "tsm_inplace" or'):
        build("image")


def test_inflated_convolutions_begin_with_those_of_single_frames():
    convolutions = []
    for blocks in ("image", "slow_only"):
        torch.manual_seed(0)
        network = build(blocks, weights=None).image_tower.tower
        convolutions.append([getattr(network, f"layer{i}")[1].conv1 for i in (2, 3, 4)])
    (flat, *images), (same, *inflated) = convolutions
    assert torch.equal(flat.weight, same.weight)
    for image, module in zip(images, inflated, strict=True):
        for frame in range(3):
            assert torch.equal(module.conv.weight[:, :, frame], image.weight / 3)
