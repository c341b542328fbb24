"""Every kind of tampering is seen, before anything of the folder runs; every wrong result file is refused."""

import shutil
import subprocess
import sys

import pytest

from wbdc.core.errors import IntegrityBroken, ResultInvalid
from wbdc.core.files import publish_json, read_json
from wbdc.submit.verify import check_result, verify


@pytest.fixture
def copy(package, tmp_path):
    return shutil.copytree(package, tmp_path / "copy")


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_an_untouched_copy_passes(copy):
    said = verify(copy)
    assert said["competition"] == "wechat2022" and said["latency"] is None and said["members"] == ["late-0a1b2c3d/fold-0", "dual-4e5f6071/fold-1"]
    assert said["bytes"] == sum(p.stat().st_size for p in copy.rglob("*") if p.is_file()) - (copy / "manifest.json").stat().st_size


TAMPERS = {
    "weights changed": (lambda f: flip(f / "models/late-0a1b2c3d/fold-0/model.safetensors"), r"model\.safetensors \(changed\)"),
    "code changed": (lambda f: flip(f / "wbdc/serve/engine.py"), r"engine\.py \(changed\)"),
    "missing": (lambda f: (f / "wbdc/core/tokens.py").unlink(), r"tokens\.py \(missing\)"),
    "extra": (lambda f: (f / "sitecustomize.py").write_text("raise SystemExit"), r"sitecustomize\.py \(extra\)"),
    "hidden extra": (lambda f: (f / "wbdc/.env").write_text("x"), r"\.env \(extra\)"),
    "nested manifest": (lambda f: (f / "models/manifest.json").write_text("{}"), r"models/manifest\.json \(extra\)"),
    "link": (lambda f: (f / "blend.json").rename(f.parent / "b") and (f / "blend.json").symlink_to(f.parent / "b"), r"blend\.json \(a link\)"),
    "linked folder": (lambda f: (f / "more").symlink_to(f.parent), r"more \(a link\)"),
    "manifest changed": (lambda f: publish_json(f / "manifest.json", {**read_json(f / "manifest.json"), "precision": "fp16"}), "changed after packing"),
    "manifest missing": (lambda f: (f / "manifest.json").unlink(), "missing"),
    "manifest cut": (lambda f: (f / "manifest.json").write_text("{"), "damaged"),
    "receipt of other bytes": (lambda f: publish_json(f / "latency.json", {"bound": "0" * 64}), "belongs to other bytes"),
}


@pytest.mark.parametrize("kind", TAMPERS)
def test_tampering_is_seen(copy, kind):
    tamper, says = TAMPERS[kind]
    tamper(copy)
    with pytest.raises(IntegrityBroken, match=says):
        verify(copy)


def test_at_most_ten_files_are_named(copy):
    for number in range(15):
        (copy / f"extra-{number:02d}").write_text("x")
    with pytest.raises(IntegrityBroken, match="15 differences") as raised:
        verify(copy)
    assert str(raised.value).count("(extra)") == 10


def test_a_receipt_of_these_bytes_is_returned(copy):
    publish_json(copy / "latency.json", {"bound": verify(copy)["bound"], "verdict": "PASS"})
    assert verify(copy)["latency"]["verdict"] == "PASS"


@pytest.mark.parametrize("name", ["wbdc/serve/entry.py", "models/dual-4e5f6071/fold-1/model.safetensors", "manifest.json"])
def test_a_damaged_package_refuses_to_run_before_it_imports_anything(copy, name):
    flip(copy / name) if name != "manifest.json" else (copy / name).unlink()
    ran = subprocess.run([sys.executable, "-I", copy / "main.py"], capture_output=True, text=True, cwd="/", check=False)
    assert ran.returncode == 4 and name in ran.stderr and ran.stderr.count("\n") == 1


IDS, CLASSES = ["0001", "12345678901234567890"], ["0100", "0101"]
RESULTS = {
    "duplicate beside a missing id": b"0001,0100\n0001,0101\n",
    "missing": b"0001,0100\n",
    "unknown id": b"0001,0100\n12345678901234567890,0101\n7,0100\n",
    "number for an id": b"1,0100\n12345678901234567890,0101\n",
    "header": b"id,category_id\n0001,0100\n12345678901234567890,0101\n",
    "mark": b"\xef\xbb\xbf0001,0100\n12345678901234567890,0101\n",
    "wrong class": b"0001,100\n12345678901234567890,0101\n",
    "CRLF": b"0001,0100\r\n12345678901234567890,0101\r\n",
    "half a line": b"0001,0100\n12345678901234567890,0101",
    "empty": b"",
}


def test_a_right_result_is_read_in_the_order_of_the_ids(tmp_path):
    (tmp_path / "r.csv").write_bytes(b"12345678901234567890,0101\n0001,0100\n")
    assert check_result(tmp_path / "r.csv", "wechat2022", IDS, CLASSES) == ["0100", "0101"]


@pytest.mark.parametrize("kind", RESULTS)
def test_a_wrong_result_is_refused(tmp_path, kind):
    (tmp_path / "r.csv").write_bytes(RESULTS[kind])
    with pytest.raises(ResultInvalid):
        check_result(tmp_path / "r.csv", "wechat2022", IDS, CLASSES)
