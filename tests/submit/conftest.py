"""A tiny ensemble of two models, one with plugs of its own, on generated data; the folders of its
runs are as training leaves them.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.files import publish_bytes, publish_file, publish_json, seal_folder
from wbdc.data.text import learn_tokenizer
from wbdc.nets.model import build_model
from wbdc.prepare.demo.synthetic_contest import generate_contest
from wbdc.submit.pack import package as package_module
from wbdc.submit.pack.package import PackedMember, PackOptions, pack_submission

TINY_TOWER = '''\
"""A tower without a library: the mean color of the quarters of a frame."""

from torch import nn

from wbdc.core.image_settings import ImageSettings
from wbdc.nets.vision import Vision


class Tiny(Vision):
    """Four by four means, one linear layer."""

    def __init__(self, *, frames: int = 3, frozen: bool = False):
        super().__init__(frames=frames, frozen=frozen)
        self.image_settings, self.dim = ImageSettings(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), 8
        self.pool, self.mix = nn.AdaptiveAvgPool2d(4), nn.Linear(48, 8)

    def encode(self, pixels):
        return self.mix(self.pool(pixels).flatten(1))

    def blueprint(self):
        return {"use": "./tiny_tower.py", "frames": self.frames, "frozen": self.frozen}
'''

LATE = '''\
"""Late fusion: the means of both rows are added."""

from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.fusion import Fusion


class Late(Fusion):
    """Text and frames meet only in the sum."""

    def forward(self, text: Tokens, frames: Tokens) -> Fused:
        read = self.trunk(text)
        return Fused(read, frames, read.mean() + frames.mean())
'''

POOLING = {"use": "mean"}
TRUNK = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
KIT = {
    "competition": "wechat2022",
    "text": {"fields": {"title": 16, "asr": 16, "ocr": 8}, "length": 48, "vocabulary": {}},
    "trunk": {"architecture": TRUNK},
    "vision": {"use": "./tiny_tower.py"},
    "train": {
        "epochs": 1,
        "batch": 4,
        "learning_rate": {"rest": 1e-3},
        "objective": [{"use": "classify"}],
    },
}


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Data as a judge mounts it."""
    into = tmp_path_factory.mktemp("contest")
    generate_contest(into, videos=40, seed=0)
    return into / "data"


@pytest.fixture(scope="session")
def members(tmp_path_factory) -> list[PackedMember]:
    """Two finished folds: "late" with both plugs of its own, "dual_stream" with the packaged
    fusion.
    """
    home = tmp_path_factory.mktemp("runs")
    late = fold(home / "late-0a1b2c3d" / "fold-0", {"use": "./late.py"}, seed=1)
    dual = fold(home / "dual-4e5f6071" / "fold-1", {"use": "dual_stream", "heads": 2}, seed=2)
    return [
        PackedMember("late-0a1b2c3d/fold-0", late, 2.0),
        PackedMember("dual-4e5f6071/fold-1", dual, 1.0),
    ]


@pytest.fixture(scope="session")
def package(tmp_path_factory, members) -> Path:
    """A packed folder without the source that trains; tests that change it use a copy."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_training(patch)
        return pack(tmp_path_factory.mktemp("submissions") / "first", members)


@pytest.fixture(scope="session")
def full_package(tmp_path_factory, members) -> Path:
    """The packed folder with all of its source."""
    return pack(tmp_path_factory.mktemp("submissions") / "full", members)


@pytest.fixture
def no_training_source(monkeypatch) -> None:
    """Pack without the source that trains."""
    leave_out_training(monkeypatch)


def leave_out_training(patch: pytest.MonkeyPatch) -> None:
    """Let packages hold the part of wbdc that serves, which is less than half of the files, so that
    they are packed, copied and verified faster.
    """
    list_all = package_module._source_files

    def list_served(home: Path) -> Iterator[Path]:
        served = (*package_module.SHIPPED_FOLDERS, "__init__.py")
        return (path for path in list_all(home) if path.relative_to(home).parts[0] in served)

    patch.setattr(package_module, "_source_files", list_served)


def pack(into: Path, members: list[PackedMember]) -> Path:
    """Pack the two models as a submission."""
    facts = {"commit": "abc1234", "score": {"mean": 0.7123}}
    options = PackOptions(
        contest=WeChat2022(),
        precision="fp32",
        facts=facts,
        training_commands=['wbdc --version > "$WORK/version"'],
    )
    pack_submission(into, members, options)
    return into


def fold(folder: Path, fusion: dict, seed: int) -> Path:
    """Write a model as `wbdc train` does, and files beside it that must not be packed."""
    torch.manual_seed(seed)
    publish_bytes(folder / "late.py", LATE.encode())
    publish_bytes(folder / "tiny_tower.py", TINY_TOWER.encode())
    tokenizer = learn_tokenizer(["的是在有个 video cat dog 新年快乐"] * 3)
    special = {w: tokenizer.token_to_id(w) for w in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    classes = sorted(WeChat2022().classes(folder))[:7]
    trunk = {**TRUNK, "vocab_size": tokenizer.get_vocab_size()}
    model = build_model(
        {
            "trunk": trunk,
            "vision": {"use": "./tiny_tower.py"},
            "fusion": fusion,
            "pooling": POOLING,
            "classes": 7,
            "special": special,
        },
        kit_folder=folder,
    )
    text = {k: v for k, v in KIT["text"].items() if k != "vocabulary"}
    facts = {
        "blueprint": model.blueprint(fusion, POOLING),
        "classes": classes,
        "competition": "wechat2022",
        "text": text,
        "without": None,
    }
    facts["serve"] = {"batch": 3, "precision": "fp32"}
    publish_file(
        folder / "model.safetensors", lambda temporary: save_file(model.state_dict(), temporary)
    )
    publish_json(folder / "model.json", facts)
    publish_json(folder / "kit.json", {**KIT, "fusion": fusion, "pooling": POOLING})
    publish_bytes(folder / "tokenizer.json", tokenizer.to_str().encode())
    seal_folder(folder, {"weights": {"trunk": "random weights, as the kit asks"}})
    for secret in (".env", ".netrc", "id_rsa", "state.safetensors", "metrics.jsonl"):
        (folder / secret).write_text("TOKEN=planted-secret")
    return folder
