"""blend.json: what is written is read back, and unknown keys are refused."""

import json
from dataclasses import replace

import pytest

from wbdc.core.errors import IntegrityFault
from wbdc.serve.blend_file import (
    BLEND_FILE,
    Blend,
    BlendMember,
    OutsideEntry,
    read_blend,
    write_blend,
)

MEMBERS = (BlendMember("models/a", 0.5, {"frames": 4}), BlendMember("models/b", 1.0, run="b-1"))
BLENDS = {
    "plain": Blend("wechat2022", "fp32", MEMBERS),
    "all fields": Blend(
        "./shorts.py",
        "fp16",
        MEMBERS,
        data="0a1b2c3d",
        class_multipliers=(1.0, 2.0),
        half=True,
        compiled=True,
        openvino=True,
        gpu=("tf32", "cuda-graphs"),
        settings={"seed": 0, "folds": ["0"]},
    ),
    "weights by class": Blend(
        "wechat2022",
        "fp32",
        (BlendMember("models/a", 0.5, class_weights=(0.1, 0.9)),),
        (OutsideEntry("svm", 0.5, "/svm.npz", "0a1b", class_weights=(0.9, 0.1)),),
    ),
}


@pytest.mark.parametrize("name", BLENDS)
def test_a_blend_is_read_as_it_was_written(tmp_path, name):
    write_blend(tmp_path, BLENDS[name])
    assert read_blend(tmp_path) == BLENDS[name]


def test_a_switch_that_this_version_does_not_have_is_refused(tmp_path):
    write_blend(tmp_path, replace(BLENDS["plain"], gpu=("tf32", "fp4")))
    with pytest.raises(IntegrityFault, match=r"unknown GPU switches \(fp4\)"):
        read_blend(tmp_path)


def test_fields_that_are_not_set_are_not_written(tmp_path):
    write_blend(tmp_path, BLENDS["plain"])
    table = json.loads((tmp_path / BLEND_FILE).read_text())
    assert set(table) == {"competition", "precision", "members"}
    assert set(table["members"][0]) == {"folder", "weight", "serve"}


def test_openvino_computes_on_the_cpu_unless_another_device_is_named():
    blend = replace(BLENDS["plain"], openvino=True)
    assert [blend.device_name(name) for name in ("auto", "cpu", "cuda")] == ["cpu", "cpu", "cuda"]
    assert BLENDS["plain"].device_name("auto") == "auto"


def test_what_blended_probabilities_are_multiplied_by():
    assert BLENDS["plain"].factors(2) is None
    assert BLENDS["all fields"].factors(2).tolist() == [1, 2]
    assert BLENDS["weights by class"].factors(2).tolist() == [1, 1]


def test_members_have_equally_many_class_weights(tmp_path):
    table = BLENDS["weights by class"].to_dict()
    del table["members"][0]["class_weights"]
    (tmp_path / BLEND_FILE).write_text(json.dumps(table))
    with pytest.raises(IntegrityFault, match="different numbers of class weights"):
        read_blend(tmp_path)


@pytest.mark.parametrize("in_member", [False, True])
def test_unknown_keys_are_refused(tmp_path, in_member):
    table = BLENDS["plain"].to_dict()
    (table["members"][0] if in_member else table)["lifts"] = [1.0]
    (tmp_path / BLEND_FILE).write_text(json.dumps(table))
    with pytest.raises(IntegrityFault, match=r"unknown keys \(lifts\)"):
        read_blend(tmp_path)
