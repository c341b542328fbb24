"""VGGish and AST: the published layers, names and numbers, and each patch on its own."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import toys
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ASTConfig, ASTForAudioClassification, ASTModel

from wbdc.core.errors import EnvironmentFault, IntegrityFault, UsageFault
from wbdc.core.tokens import Tokens
from wbdc.nets.modality.ast import AST, resize_positions
from wbdc.nets.modality.vggish import VGGish

ARCHITECTURE = toys.MODALITIES["ast"]["architecture"]
SMALL = {name: value for name, value in toys.MODALITIES["vggish"].items() if name != "pretrained"}


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    return tmp_path


class PortedVGGish(nn.Module):
    """The network of torchvggish, as it is published, with fewer channels."""

    def __init__(self, channels: int, cells: int, hidden: int, dim: int):
        super().__init__()
        layers, width = [], 1
        for size in (1, "M", 2, "M", 4, 4, "M", 8, 8, "M"):
            if size == "M":
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
            else:
                layers += [nn.Conv2d(width, size * channels, 3, padding=1), nn.ReLU(inplace=True)]
                width = size * channels
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(width * cells, hidden),
            nn.ReLU(True),
            nn.Linear(hidden, hidden),
            nn.ReLU(True),
            nn.Linear(hidden, dim),
            nn.ReLU(True),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.transpose(self.features(x), 1, 3)
        x = torch.transpose(x, 1, 2)
        return self.embeddings(x.contiguous().view(x.size(0), -1))


@torch.no_grad()
def test_vggish_computes_what_the_port_computes_with_its_weights(weights):
    port = PortedVGGish(2, 6, 16, 6)
    extra = {"pproc.pca_means": torch.zeros(6, 1), "pproc.pca_eigen_vectors": torch.zeros(6, 6)}
    (weights / "vggish").mkdir()
    save_file(port.state_dict() | extra, weights / "vggish" / "model.safetensors")
    tower = VGGish(**SMALL | {"frames": 48, "mels": 32})
    patches = torch.randn(5, 48, 32)
    torch.testing.assert_close(tower.encode(patches), port(patches[:, None]))
    assert tower.loaded == "vggish from model.safetensors: 18 tensors loaded, 2 not used (its PCA)"
    assert tower.pretrained["name"] == "vggish"


def test_vggish_has_the_weights_of_the_paper():
    with torch.device("meta"):
        tower = VGGish(pretrained=False)
    assert sum(weight.numel() for weight in tower.parameters()) == 72_141_184
    assert (tower.width, tower.dim, tower.mel.mels) == (96 * 64, 128, 64)


def test_missing_and_other_weights_of_vggish_are_refused(weights):
    with pytest.raises(EnvironmentFault, match="torchvggish"):
        VGGish()
    tensors = VGGish(pretrained=False, **SMALL).tower.state_dict()
    (weights / "vggish").mkdir()
    file = weights / "vggish" / "model.safetensors"
    save_file({**tensors, "features.0.bias": torch.zeros(3)}, file)
    with pytest.raises(IntegrityFault, match=r"features.0.bias \(3,\), not \(2,\)"):
        VGGish(**SMALL)
    tensors.pop("embeddings.4.weight")
    save_file(tensors, file)
    with pytest.raises(IntegrityFault, match="lacks 1 of 18 tensors: embeddings.4.weight"):
        VGGish(**SMALL)


def save_ast(folder: Path, model_class: type, **changes) -> nn.Module:
    model = model_class(ASTConfig(**ARCHITECTURE | {"max_length": 10} | changes))
    for name in ("cls_token", "distillation_token", "position_embeddings"):
        base = getattr(model, "audio_spectrogram_transformer", model)
        nn.init.normal_(getattr(base.embeddings, name))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("model_class", [ASTModel, ASTForAudioClassification])
@torch.no_grad()
def test_ast_computes_what_transformers_computes(weights, model_class):
    model = save_ast(weights / "mit" / "ast", model_class)
    tower = AST(model="mit/ast").eval()
    base = getattr(model, "audio_spectrogram_transformer", model)
    patches = torch.randn(3, 10, 8)
    torch.testing.assert_close(tower.encode(patches), base(patches).pooler_output)
    unused = 0 if model_class is ASTModel else 4
    assert f"tensors loaded, {unused} not used" in tower.loaded
    assert (tower.mel.mean, tower.mel.std) == (-4.2677393, 2 * 4.5689974)

    rebuilt = AST(**{k: v for k, v in tower.blueprint().items() if k != "use"}).eval()
    rebuilt.load_state_dict(tower.state_dict(), strict=True)
    assert rebuilt.mel == tower.mel
    torch.testing.assert_close(rebuilt.encode(patches), tower.encode(patches))


def test_ast_normalizes_as_the_extractor_of_the_model(weights):
    save_ast(weights / "ast", ASTModel)
    file = weights / "ast" / "preprocessor_config.json"
    for settings, expected in (
        ({"mean": -6.5, "std": 3.0, "do_normalize": True}, (-6.5, 6.0)),
        ({"mean": -6.5, "std": 3.0, "do_normalize": False}, (0.0, 1.0)),
        ({}, (-4.2677393, 2 * 4.5689974)),
    ):
        file.write_text(json.dumps(settings))
        tower = AST(model="ast")
        assert (tower.mel.mean, tower.mel.std) == expected


def test_positions_are_resized_for_another_length(weights):
    model = save_ast(weights / "ast", ASTModel)
    longer = AST(model="ast", frames=22)
    assert longer.width == 22 * 8
    before = model.embeddings.position_embeddings
    after = longer.tower.embeddings.position_embeddings
    assert (before.shape[1], after.shape[1]) == (2 + 2 * 3, 2 + 2 * 7)
    expected = F.interpolate(before[:, 2:].view(1, 2, 3, -1).movedim(3, 1), (2, 7), mode="bilinear")
    torch.testing.assert_close(after[:, 2:], expected.flatten(2).transpose(1, 2))
    assert torch.equal(after[:, :2], before[:, :2])
    assert resize_positions(before, 2, 3, 3) is before


def test_damaged_weights_of_ast_are_refused(weights):
    save_ast(weights / "ast", ASTModel, num_hidden_layers=1)
    config = weights / "ast" / "config.json"
    facts = json.loads(config.read_text())
    config.write_text(json.dumps(facts | {"num_hidden_layers": 2}))
    with pytest.raises(IntegrityFault, match=r"lacks \d+ of \d+ tensors: .*layer"):
        AST(model="ast")
    with pytest.raises(EnvironmentFault, match="the weights 'mit/none' are not on this machine"):
        AST(model="mit/none")


BAD = [
    (VGGish, {"frames": 95}, "frames = 95; it must be a multiple of 16"),
    (VGGish, {"mels": 0}, "mels = 0; it must be at least 1"),
    (VGGish, {"steps": 257}, "steps = 257; it must be between 1 and 256"),
    (AST, {}, "takes either model or architecture"),
    (AST, {"architecture": ARCHITECTURE, "frames": 3}, "frames = 3; it must be at least 4"),
    (AST, {"architecture": ARCHITECTURE, "std": 0.0}, "std = 0; it must be at least 1e-06"),
    (AST, {"architecture": ARCHITECTURE | {"num_mel_bins": 2}}, "num_mel_bins = 2"),
]


@pytest.mark.parametrize(("tower", "settings", "message"), BAD)
def test_bad_settings_are_refused(tower, settings, message):
    with pytest.raises(UsageFault, match=message):
        tower(**settings if tower is AST else {"pretrained": False} | settings)


@pytest.mark.parametrize("name", ["ast", "vggish"])
@torch.no_grad()
def test_each_patch_is_encoded_on_its_own(name):
    torch.manual_seed(0)
    tower = {"ast": AST, "vggish": VGGish}[name](**toys.MODALITIES[name]).eval()
    rows = torch.randn(2, 4, tower.width)
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    whole = tower(Tokens(rows, mask))
    assert whole.x.shape == (2, 4, tower.dim)
    assert whole.mask is mask
    for i in range(4):
        alone = tower(Tokens(rows[:1, i : i + 1], mask[:1, i : i + 1]))
        torch.testing.assert_close(alone.x, whole.x[:1, i : i + 1])
    none = tower(Tokens(rows[:, :0], mask[:, :0]))
    assert none.x.shape == (2, 0, tower.dim)
    assert math.isfinite(whole.x.sum())
