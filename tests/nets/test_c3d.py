"""C3D against its layers written out, its published size, and its checkpoints."""

import pytest
import torch
import toys
from safetensors.torch import save_file
from torch import nn

from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.nets.vision.c3d import C3D

SETTINGS = toys.VISIONS["c3d"]


def longhand(tower: nn.ModuleDict) -> nn.Sequential:
    """The network of the paper, in the words of its Figure 3."""
    relu = nn.ReLU()
    return nn.Sequential(
        *(tower["conv1"], relu, nn.MaxPool3d((1, 2, 2), (1, 2, 2))),
        *(tower["conv2"], relu, nn.MaxPool3d(2, 2)),
        *(tower["conv3a"], relu, tower["conv3b"], relu, nn.MaxPool3d(2, 2)),
        *(tower["conv4a"], relu, tower["conv4b"], relu, nn.MaxPool3d(2, 2)),
        *(tower["conv5a"], relu, tower["conv5b"], relu, nn.MaxPool3d(2, 2, (0, 1, 1))),
        *(nn.Flatten(), tower["fc6"], relu, tower["fc7"], relu),
    )


def test_c3d_equals_its_layers_written_out():
    torch.manual_seed(0)
    tower = C3D(**SETTINGS).eval()
    clips = torch.randn(2, 16, 3, 32, 32)
    with torch.no_grad():
        expected = longhand(tower.tower)(clips.transpose(1, 2))
        torch.testing.assert_close(tower.encode(clips)[:, 0, 0], expected)
    assert expected.any()


def test_c3d_has_its_published_size():
    with torch.device("meta"):
        tower = C3D()
        vectors = tower.encode(torch.empty(1, 16, 3, 112, 112))
        classifier = nn.Linear(4096, 101)
    count = sum(p.numel() for m in (tower, classifier) for p in m.parameters())
    assert round(count / 1e6, 2) == 78.41, "with the 101 classes of UCF-101"
    assert vectors.shape == (1, 1, 1, 4096)


NAMES = {
    "sports1m": lambda name: name,
    "mmaction": lambda name: (
        "backbone."
        + name.replace("conv1.", "conv1a.").replace("conv2.", "conv2a.").replace(".", ".conv.")
        if name.startswith("conv")
        else f"backbone.{name}"
    ),
}


@pytest.mark.parametrize("layout", NAMES)
def test_checkpoints_are_mapped_by_name(layout, tmp_path, monkeypatch):
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    weights = C3D(**SETTINGS).tower.state_dict()
    (tmp_path / "c3d").mkdir()
    file = tmp_path / "c3d" / "model.safetensors"
    published = {NAMES[layout](name): tensor for name, tensor in weights.items()}
    save_file(published | {"fc8.weight": torch.zeros(2, 8)}, file)
    loaded = C3D(weights="c3d", **SETTINGS)
    assert all(torch.equal(loaded.tower.state_dict()[n], t) for n, t in weights.items())
    assert loaded.loaded == (
        "c3d from model.safetensors: 20 tensors loaded, 1 not used (its classifier)"
    )
    published.pop(NAMES[layout]("conv3b.bias"))
    save_file(published, file)
    with pytest.raises(IntegrityFault, match="lacks 1 of 20 tensors: conv3b.bias"):
        C3D(weights="c3d", **SETTINGS)


def test_frames_that_are_too_small_are_refused():
    with pytest.raises(UsageFault, match="vision 'c3d': size = 8; it must be at least 16"):
        C3D(size=8)
