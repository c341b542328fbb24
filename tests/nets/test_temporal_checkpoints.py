"""Published checkpoints of temporal modules: the layouts of their authors and of MMAction2 give the
outputs of networks that are written out as the authors do.
"""

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models import resnet

from wbdc.core.errors import EnvironmentFault, IntegrityFault, UsageFault
from wbdc.core.plug import build_plug
from wbdc.nets import vision as visions
from wbdc.nets.published_weights import map_checkpoint
from wbdc.nets.temporal_checkpoints import TEMPORAL_CLASSIFIER, TSM_NAMES

LENGTH = 3
WIDTH = 128  # of the features of the narrow ResNet
RESNET = {"use": "torchvision", "model": "resnet18", "size": 32}


def as_clips(x: Tensor) -> Tensor:
    return x.view(-1, LENGTH, *x.shape[1:])


class Shift(nn.Module):
    """TSM: net."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        fold = x.shape[1] // 8
        clips = as_clips(x)
        out = torch.zeros_like(clips)
        out[:, :-1, :fold] = clips[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = clips[:, :, 2 * fold :]
        return self.net(out.view_as(x))


class NonLocal(nn.Module):
    """TSM: block, and nl with g, theta, phi and W, of which pooling follows two."""

    def __init__(self, block: nn.Module, kernel: str):
        super().__init__()
        self.block = block
        self.kernel = kernel
        width = block.conv2.out_channels
        inner = width // 2
        self.nl = nn.Module()
        self.nl.g = nn.Sequential(nn.Conv3d(width, inner, 1), nn.MaxPool3d((1, 2, 2)))
        self.nl.W = nn.Sequential(nn.Conv3d(inner, width, 1), nn.BatchNorm3d(width))
        if kernel != "gaussian":
            self.nl.theta = nn.Conv3d(width, inner, 1)
            self.nl.phi = nn.Sequential(nn.Conv3d(width, inner, 1), nn.MaxPool3d((1, 2, 2)))

    def forward(self, x: Tensor) -> Tensor:
        clips = as_clips(self.block(x)).transpose(1, 2)
        if self.kernel == "gaussian":
            theta, phi = clips, F.max_pool3d(clips, (1, 2, 2))
        else:
            theta, phi = self.nl.theta(clips), self.nl.phi(clips)
        scores = theta.flatten(2).transpose(1, 2) @ phi.flatten(2)
        weights = scores / scores.shape[2] if self.kernel == "dot_product" else scores.softmax(2)
        means = weights @ self.nl.g(clips).flatten(2).transpose(1, 2)
        means = means.transpose(1, 2).reshape(len(clips), -1, *clips.shape[2:])
        out = clips + self.nl.W(means)
        return out.transpose(1, 2).flatten(0, 1)


class Interlace(nn.Module):
    """TIN: net1.biasnet.net, net1.weightnet.net and net2. Its kernel copies frame i to frame
    i + shift.
    """

    def __init__(self, net: nn.Conv2d):
        super().__init__()
        fold = net.in_channels // 4
        bias, weight = nn.Module(), nn.Module()
        bias.conv = nn.Conv1d(fold, 1, 3, padding=1)
        bias.fc = nn.Linear(LENGTH, LENGTH)
        bias.lastlayer = nn.Linear(LENGTH, 2)
        weight.lastlayer = nn.Conv1d(fold, 2, 3, padding=1)
        self.net1 = nn.ModuleDict(
            {"biasnet": nn.ModuleDict({"net": bias}), "weightnet": nn.ModuleDict({"net": weight})}
        )
        self.net2 = net

    def forward(self, x: Tensor) -> Tensor:
        bias, weight = self.net1["biasnet"]["net"], self.net1["weightnet"]["net"]
        clips = as_clips(x)
        fold = x.shape[1] // 4
        pooled = clips[:, :, :fold].mean((3, 4)).permute(0, 2, 1)
        hidden = F.relu(bias.fc(bias.conv(pooled)[:, 0]))
        offsets = 4 * (bias.lastlayer(hidden).sigmoid() - 0.5)
        offsets = torch.cat([offsets, -offsets], 1)
        weights = 2 * weight.lastlayer(pooled).sigmoid()
        out = clips.clone()
        out[:, :, :fold] = 0
        for video, group in ((v, g) for v in range(len(clips)) for g in range(4)):
            channels = slice(group * fold // 4, (group + 1) * fold // 4)
            first = math.floor(offsets[video, group])
            share = offsets[video, group] - first
            for shift, part in ((first, 1 - share), (first + 1, share)):
                for i in range(LENGTH):
                    if 0 <= i + shift < LENGTH:
                        out[video, i + shift, channels] += part * clips[video, i, channels]
            for t in range(LENGTH):
                out[video, t, channels] *= weights[video, group % 2, t]
        return self.net2(out.view_as(x))


class Adaptive(nn.Module):
    """TANet: net is the residual block; tam.G and tam.L are the branches."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        width = net.conv1.out_channels
        self.tam = nn.Module()
        self.tam.G = nn.Sequential(
            nn.Linear(LENGTH, LENGTH * 2, bias=False),
            nn.BatchNorm1d(LENGTH * 2),
            nn.ReLU(),
            nn.Linear(LENGTH * 2, 3, bias=False),
            nn.Softmax(-1),
        )
        self.tam.L = nn.Sequential(
            nn.Conv1d(width, width // 4, 3, padding=1, bias=False),
            nn.BatchNorm1d(width // 4),
            nn.ReLU(),
            nn.Conv1d(width // 4, width, 1, bias=False),
            nn.Sigmoid(),
        )

    def mix(self, x: Tensor) -> Tensor:
        clips = as_clips(x).transpose(1, 2)
        count, channels, _, height, width = clips.shape
        pooled = clips.mean((3, 4))
        kernels = self.tam.G(pooled.reshape(-1, LENGTH)).view(count * channels, 1, 3, 1)
        clips = clips * self.tam.L(pooled)[..., None, None]
        flat = clips.reshape(1, count * channels, LENGTH, height * width)
        out = F.conv2d(flat, kernels, padding=(1, 0), groups=count * channels)
        return out.view(clips.shape).transpose(1, 2).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        out = self.mix(F.relu(net.bn1(net.conv1(x))))
        out = net.bn2(net.conv2(out))
        return F.relu(out + (x if net.downsample is None else net.downsample(x)))


def authors_network(use: str, non_local: str | None = None) -> nn.Module:
    """A ResNet with the modules of its authors and random weights and statistics."""
    torch.manual_seed(0)
    network = models.resnet18()
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for i, block in enumerate(stage):
            if use == "tam":
                stage[i] = Adaptive(block)
            elif use != "tsn":
                block.conv1 = {"tsm": Shift, "tin": Interlace}[use](block.conv1)
    for stage in (network.layer2, network.layer3) if non_local else ():
        stage[0] = NonLocal(stage[0], non_local)  # and not the second one
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                scale = 0.5 if "lastlayer" in name or "fc." in name else 0.05
                tensor.add_(scale * torch.rand_like(tensor))
        if non_local:  # whose products of three maps need moderate values
            for norm in (m for m in network.modules() if hasattr(m, "running_var")):
                norm.momentum = None  # the statistics of one batch
            network.train()(torch.randn(2 * LENGTH, 3, 32, 32))
    return network.eval()


MMACTION = (  # from the names of the authors
    (r"\.net1\.biasnet\.net\.conv\.", ".net1.offset_net.conv."),
    (r"\.net1\.biasnet\.net\.fc\.", ".net1.offset_net.fc1."),
    (r"\.net1\.biasnet\.net\.lastlayer\.", ".net1.offset_net.fc2."),
    (r"\.net1\.weightnet\.net\.lastlayer\.", ".net1.weight_net.conv."),
    (r"^(layer\d\.\d)\.net\.", r"\1.block."),
    (r"\.nl\.(g|phi)\.0\.", r".non_local_block.\1.0.conv."),
    (r"\.nl\.theta\.", ".non_local_block.theta.conv."),
    (r"\.nl\.W\.0\.", ".non_local_block.conv_out.conv."),
    (r"\.nl\.W\.1\.", ".non_local_block.conv_out.bn."),
    (r"(^|\.)conv(\d)\.(weight$|net)", r"\1conv\2.conv.\3"),
    (r"(^|\.)bn(\d)\.", r"\1conv\2.bn."),
    (r"\.downsample\.0\.", ".downsample.conv."),
    (r"\.downsample\.1\.", ".downsample.bn."),
    (r"^", "backbone."),
    (r"^backbone\.fc\.", "cls_head.fc_cls."),
)


def published_name(name: str, layout: str) -> str:
    if layout == "authors":
        return "new_fc." + name.removeprefix("fc.") if name[:3] == "fc." else f"base_model.{name}"
    for pattern, replacement in MMACTION:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(autouse=True)
def narrow_resnets(monkeypatch):
    """Build the ResNets of torchvision with a quarter of their channels."""
    make_layer, make_resnet = resnet.ResNet._make_layer, resnet._resnet

    def make_narrow_resnet(*values, **settings):
        network = make_resnet(*values, **settings)
        network.fc = nn.Linear(WIDTH, 1000)
        return network

    monkeypatch.setattr(
        resnet.ResNet,
        "_make_layer",
        lambda self, block, planes, *rest, **settings: make_layer(
            self, block, planes // 4, *rest, **settings
        ),
    )
    monkeypatch.setattr(resnet, "_resnet", make_narrow_resnet)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "published").mkdir()
    return tmp_path / "published"


def build(use: str, weights: str | None = "published", **settings: object) -> nn.Module:
    table = {"use": use, "tower": RESNET, "frames": 4, "segments": LENGTH, "weights": weights}
    return build_plug(visions, table | settings).eval()


@pytest.mark.parametrize(
    ("use", "layout", "example"),
    [
        ("tsn", "mmaction2", "backbone.layer1.0.conv1.conv.weight"),
        ("tsm", "authors", "base_model.layer1.0.conv1.net.weight"),
        ("tsm", "mmaction2", "backbone.layer1.0.conv1.conv.net.weight"),
        ("tin", "authors", "base_model.layer1.0.conv1.net1.biasnet.net.lastlayer.bias"),
        ("tin", "mmaction2", "backbone.layer1.0.conv1.conv.net1.offset_net.fc2.bias"),
        ("tam", "authors", "base_model.layer1.0.tam.G.0.weight"),
        ("tam", "mmaction2", "backbone.layer1.0.block.conv1.bn.running_mean"),
    ],
)
def test_a_published_checkpoint_gives_the_outputs_of_its_authors(use, layout, example, folder):
    tower = compare_with_authors(use, layout, example, folder)
    assert tower.pretrained["name"] == "published"
    assert "weights" not in tower.blueprint()


@pytest.mark.parametrize(
    ("kernel", "layout", "example"),
    [
        ("embedded_gaussian", "authors", "base_model.layer2.0.block.conv1.net.weight"),
        ("embedded_gaussian", "mmaction2", "backbone.layer2.0.block.conv1.conv.net.weight"),
        ("dot_product", "mmaction2", "backbone.layer3.0.non_local_block.phi.0.conv.weight"),
        ("gaussian", "mmaction2", "backbone.layer3.0.non_local_block.conv_out.bn.weight"),
    ],
)
def test_non_local_blocks_of_a_checkpoint_are_read(kernel, layout, example, folder):
    tower = compare_with_authors("tsm", layout, example, folder, kernel)
    tower.serve_frames(2)
    assert tower.encode(torch.randn(1, 2, 3, 32, 32)).shape == (1, 2, 1, WIDTH)
    rebuilt = build_plug(visions, tower.blueprint())
    rebuilt.load_state_dict(tower.state_dict())
    with pytest.raises(IntegrityFault, match=r"not have: .*layer2.0.block"):
        build("tsm")


def compare_with_authors(
    use: str, layout: str, example: str, folder: Path, non_local: str | None = None
) -> nn.Module:
    """Return a tower with the weights of a checkpoint, whose outputs are those of its network."""
    network = authors_network(use, non_local)
    published = {published_name(n, layout): t for n, t in network.state_dict().items()}
    assert example in published
    save_file(published, folder / "model.safetensors")
    tower = build(use) if non_local is None else build(use, non_local=non_local)
    network.fc = nn.Identity()
    clips = torch.randn(2, LENGTH, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(clips.flatten(0, 1)).view(2, LENGTH, WIDTH)
        torch.testing.assert_close(tower.encode(clips)[:, :, 0], expected, rtol=1e-4, atol=1e-4)
    counters = sum(name.endswith("num_batches_tracked") for name in published)
    assert tower.loaded == (
        f"published from model.safetensors: {len(published) - counters - 2} tensors loaded, "
        f"{counters + 2} left out (classifier, counters of batches)"
    )
    return tower


def test_published_resnets_of_100_layers_shift_every_second_block():
    tower = build("tsm", weights=None, shift_every=2).image_tower.tower
    names = [name for name in tower.state_dict() if ".conv1.conv." in name]
    assert names == [f"layer{i}.0.conv1.conv.weight" for i in (1, 2, 3, 4)]
    with pytest.raises(UsageFault, match="shift_every = 0; it must be at least 1"):
        build("tsm", weights=None, shift_every=0)


def test_non_local_blocks_that_a_tower_cannot_have_are_refused():
    with pytest.raises(
        UsageFault, match="'tsm': no non_local called 'dot'; it may be one of: dot_p"
    ):
        build("tsm", weights=None, non_local="dot")
    with pytest.raises(UsageFault, match="32 x 32 pixels or more, not 16 x 16; change size"):
        build("tsm", weights=None, non_local="gaussian", tower=RESNET | {"size": 16})


# ---- what does not fit

EXPECTED = {name: torch.zeros(2) for name in ("conv1.weight", "layer1.0.conv1.conv.weight")}
FITTING = {"conv1.weight": torch.ones(2), "layer1.0.conv1.net.weight": torch.ones(2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": None}, "lacks 1 of 2 tensors: conv1.weight"),
        ({"layer1.0.conv1.weight": torch.ones(2)}, "not have: layer1.0.conv1.weight"),
        ({"base_model.layer1.0.nl.g.weight": torch.ones(2)}, "not have: base_model.layer1.0.nl.g"),
        ({"conv1.weight": torch.ones(3)}, r"another shape: conv1.weight \(3,\), not \(2,\)"),
        ({"module.base_model.conv1.weight": torch.ones(2)}, "under several names: conv1.weight, m"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change, message):
    file = Path("model.safetensors")
    tensors = {name: t for name, t in (FITTING | change).items() if t is not None}
    with pytest.raises(IntegrityFault, match=message):
        map_checkpoint(tensors, EXPECTED, file, TSM_NAMES, TEMPORAL_CLASSIFIER)
    mapped = map_checkpoint(FITTING, EXPECTED, file, TSM_NAMES, TEMPORAL_CLASSIFIER)
    assert mapped.keys() == EXPECTED.keys()


def test_a_checkpoint_of_another_module_is_refused(folder):
    network = authors_network("tsn")
    save_file(network.state_dict(), folder / "model.safetensors")
    build("tsn")
    with pytest.raises(IntegrityFault, match="does not have: layer1.0.conv1.weight"):
        build("tsm")


def test_weights_that_cannot_be_used_are_refused(folder):
    with pytest.raises(EnvironmentFault, match="from https://github.com/deepcs233/TIN, into"):
        build("tin")
    with pytest.raises(UsageFault, match="'tsm': weights and the pretrained weights of its tower"):
        build("tsm", tower=RESNET | {"weights": "IMAGENET1K_V1"})
    timm = {"use": "timm", "model": "test_resnet", "size": 32}
    with pytest.raises(EnvironmentFault, match="'published' are not on this machine"):
        build("tsm", tower=timm)  # and not those of timm
