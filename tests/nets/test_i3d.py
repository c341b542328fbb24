"""I3D with Inception: its published size, the padding of TensorFlow, and its checkpoint."""

import pytest
import torch
import torch.nn.functional as F
import toys
from safetensors.torch import save_file
from torch import Tensor, nn

from wbdc.core.errors import EnvironmentFault, IntegrityFault, UsageFault
from wbdc.nets.inception_i3d import MIXED, pad_same
from wbdc.nets.vision.i3d import I3D

SETTINGS = toys.VISIONS["i3d"]


def test_i3d_has_its_published_size():
    with torch.device("meta"):
        tower = I3D()
        classifier = nn.Conv3d(1024, 400, 1)
    count, logits = (sum(p.numel() for p in m.parameters()) for m in (tower, classifier))
    assert count == 12_287_264
    assert count + logits == 12_697_264, "with the 400 classes of Kinetics"
    assert (tower.clip_frames, tower.clip_steps, tower.dim) == (16, 2, 1024)
    with torch.device("meta"):
        assert tower.feature_map(torch.empty(1, 64, 3, 224, 224)).shape == (1, 8, 7, 7, 1024)


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1)])
def test_padding_is_that_of_tensorflow(size, kernel, stride):
    x = torch.ones(1, 1, size, size, size)
    padded = pad_same(x, (kernel,) * 3, (stride,) * 3)
    steps = -(-size // stride)
    total = max((steps - 1) * stride + kernel - size, 0)  # the formula of its documentation
    assert padded.shape[2:] == (size + total,) * 3
    line = padded[0, 0, :, padded.shape[3] // 2, padded.shape[4] // 2]
    assert line.nonzero().flatten().tolist() == list(range(total // 2, total // 2 + size))
    assert F.max_pool3d(padded, kernel, stride).shape[2:] == (steps,) * 3


def unit(network: nn.Module, x: Tensor, stride: int = 1) -> Tensor:
    """A convolution of odd kernel on sizes for which the padding is equal on both sides, or even
    sizes at stride 2, where TensorFlow pads 2 zeros before and 3 after.
    """
    kernel = network.conv3d.kernel_size[0]
    before = (kernel - 1) // 2 if stride == 1 else (kernel - stride) // 2
    x = F.pad(x, (before, kernel - stride - before) * 3)
    return F.relu(network.bn(F.conv3d(x, network.conv3d.weight, stride=stride)))


def longhand(network: nn.Sequential, x: Tensor) -> Tensor:
    """The network of the paper for clips of 8 frames of 32 pixels."""

    def pooled(x: Tensor, kernel: tuple, stride: tuple) -> Tensor:
        total = [k - s for k, s in zip(kernel, stride, strict=True)]
        pads = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
        return F.max_pool3d(F.pad(x, pads), kernel, stride)

    layers = dict(network.named_children())
    x = unit(layers["Conv3d_1a_7x7"], x, stride=2)
    x = pooled(x, (1, 3, 3), (1, 2, 2))
    x = unit(layers["Conv3d_2c_3x3"], unit(layers["Conv3d_2b_1x1"], x))
    x = pooled(x, (1, 3, 3), (1, 2, 2))
    for name in MIXED:
        if name == "Mixed_4b":
            x = pooled(x, (3, 3, 3), (2, 2, 2))
        if name == "Mixed_5b":
            x = pooled(x, (2, 2, 2), (2, 2, 2))
        m = layers[name]
        b3 = unit(m.b3b, F.max_pool3d(x, 3, 1, 1))
        x = torch.cat(
            [unit(m.b0, x), unit(m.b1b, unit(m.b1a, x)), unit(m.b2b, unit(m.b2a, x)), b3], 1
        )
    return x


def random_i3d(**settings: object) -> I3D:
    """A tower with random statistics of its batch norms."""
    torch.manual_seed(0)
    tower = I3D(**SETTINGS | settings).eval()
    with torch.no_grad():
        for name, tensor in tower.tower.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                tensor.add_(0.1 * torch.rand_like(tensor))
    return tower


def test_i3d_equals_its_layers_written_out():
    tower = random_i3d(frames=8, segments=None, channels=16)
    clips = torch.randn(2, 8, 3, 32, 32)
    with torch.no_grad():
        expected = longhand(tower.tower, clips.transpose(1, 2))
        features = tower.feature_map(clips)
        torch.testing.assert_close(features, expected.movedim(1, 4))
        torch.testing.assert_close(tower.encode(clips)[:, :, 0], expected.mean((3, 4)).mT)
    assert expected.shape == (2, 256, 1, 1, 1)
    assert expected.any()


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "i3d").mkdir()
    return tmp_path / "i3d" / "model.safetensors"


def test_a_checkpoint_is_mapped_by_name(file):
    weights = random_i3d().tower.state_dict()
    for name in (
        "Conv3d_1a_7x7.conv3d.weight",
        "Conv3d_2c_3x3.bn.running_var",
        "Mixed_3b.b0.conv3d.weight",
        "Mixed_5c.b3b.bn.bias",
    ):
        assert name in weights, "as in piergiaj/pytorch-i3d"
    logits = {f"logits.conv3d.{name}": torch.zeros(2) for name in ("weight", "bias")}
    save_file(weights | logits, file)
    loaded = I3D(weights="i3d", **SETTINGS)
    assert all(torch.equal(t, weights[name]) for name, t in loaded.tower.state_dict().items())
    counters = sum(name.endswith("num_batches_tracked") for name in weights)
    assert loaded.loaded == (
        f"i3d from model.safetensors: {len(weights) - counters} tensors loaded, "
        f"{counters + 2} left out (classifier, counters of batches)"
    )

    save_file({n: t for n, t in weights.items() if n != "Mixed_4d.b1b.bn.bias"}, file)
    with pytest.raises(IntegrityFault, match="tensors: Mixed_4d.b1b.bn.bias"):
        I3D(weights="i3d", **SETTINGS)
    save_file(weights | {"Mixed_6a.b0.bn.bias": torch.zeros(2)}, file)
    with pytest.raises(IntegrityFault, match="does not have: Mixed_6a.b0.bn.bias"):
        I3D(weights="i3d", **SETTINGS)


def test_settings_that_i3d_cannot_have_are_refused(file):
    with pytest.raises(EnvironmentFault, match="from https://github.com/piergiaj/pytorch-i3d, in"):
        I3D(weights="i3d", **SETTINGS)
    with pytest.raises(UsageFault, match="vision 'i3d': channels = 0; it must be at least 1"):
        I3D(channels=0)
    with pytest.raises(UsageFault, match="patch_grid = 2; i3d has 1 x 1 patches"):
        I3D(patch_grid=2, **SETTINGS)
