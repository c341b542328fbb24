"""Weights in a package: shared towers are stored once, and float16 weights are rounded ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toys

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.files import publish_json, read_json, seal_folder
from wbdc.serve.members import load_member
from wbdc.submit.check.verify import verify_package
from wbdc.submit.pack.package import PackedMember, PackOptions, pack_submission

OPTIONS = PackOptions(contest=WeChat2022(), precision="fp32", facts={}, training_commands=[])
pytestmark = pytest.mark.usefixtures("no_training_source")


def write_finished_fold(folder: Path, model, fusion: str) -> Path:
    toys.member(folder, model, fusion)
    publish_json(
        folder / "model.json", read_json(folder / "model.json") | {"competition": "wechat2022"}
    )
    seal_folder(folder, {"weights": {"trunk": "random weights"}})
    return folder


@pytest.fixture
def members(tmp_path) -> list[PackedMember]:
    """Three models, two of them with one tower."""
    first, second, third = (
        toys.model(seed=0),
        toys.model("cross_attention", seed=1),
        toys.model(seed=2),
    )
    second.vision.load_state_dict(first.vision.state_dict())
    models = [
        ("a/fold-0", first, "dual_stream"),
        ("b/fold-0", second, "cross_attention"),
        ("c/fold-0", third, "dual_stream"),
    ]
    return [
        PackedMember(name, write_finished_fold(tmp_path / "runs" / name, model, fusion), 1.0)
        for name, model, fusion in models
    ]


def weights(folder: Path, **options) -> dict:
    return load_member(folder, **options).model.state_dict()


def test_a_tower_that_members_share_is_stored_once(members, tmp_path):
    pack_submission(tmp_path / "p", members, OPTIONS)
    models = tmp_path / "p" / "models"
    (tower,) = (models / "towers").iterdir()
    for name, folder, *_ in members:
        assert all(
            torch.equal(a, b)
            for a, b in zip(weights(models / name).values(), weights(folder).values(), strict=True)
        )
    alone, shared = (
        (models / name / "model.safetensors").stat().st_size for name in ("c/fold-0", "a/fold-0")
    )
    assert shared < alone
    assert (models / "c/fold-0/model.safetensors").read_bytes() == (
        members[2].folder / "model.safetensors"
    ).read_bytes()
    tower.unlink()
    with pytest.raises(Exception, match="towers"):
        verify_package(tmp_path / "p")


@pytest.mark.slow
def test_half_stores_the_weights_rounded_to_float16(members, tmp_path):
    pack_submission(tmp_path / "p", members, OPTIONS)
    pack_submission(tmp_path / "h", members, replace(OPTIONS, half=True))
    sizes = [
        sum(p.stat().st_size for p in (tmp_path / name / "models").rglob("*.safetensors"))
        for name in "ph"
    ]
    assert sizes[1] < 0.65 * sizes[0]
    assert read_json(tmp_path / "h" / "blend.json")["half"]
    for name, folder, *_ in members:
        stored, rounded = (
            weights(tmp_path / "h" / "models" / name, half=True),
            weights(folder, half=True),
        )
        assert all(
            torch.equal(a, b) for a, b in zip(stored.values(), rounded.values(), strict=True)
        )
        assert any(
            not torch.equal(a, b)
            for a, b in zip(rounded.values(), weights(folder).values(), strict=True)
        )


def test_weights_that_overflow_float16_are_refused(members, tmp_path):
    from wbdc.core.errors import IntegrityFault

    model = toys.model()
    model.head.weight.data[0, 0] = 1e6
    write_finished_fold(tmp_path / "big", model, "dual_stream")
    with pytest.raises(IntegrityFault, match="not finite, in head.weight"):
        load_member(tmp_path / "big", half=True)
    assert np.isfinite(load_member(tmp_path / "big").model.head.weight.detach().numpy()).all()
