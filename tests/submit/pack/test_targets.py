"""Targets: their content, equal bytes for equal folders, and an audit target that trains and
predicts on its own.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile

import pytest
from small import ended_process

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import UsageFault
from wbdc.core.files import read_json
from wbdc.serve.entry import main
from wbdc.submit.check.reproduce import repeat_predictions
from wbdc.submit.check.verify import verify_package
from wbdc.submit.pack import targets
from wbdc.submit.pack.targets import find_target, make_target

pytestmark = pytest.mark.slow

TARGETS = WeChat2022.targets


def copy(package, tmp_path):
    return shutil.copytree(package, tmp_path / "first")


def test_the_first_target_is_the_folder_itself(package):
    assert make_target(package, "leaderboard", find_target(TARGETS, "leaderboard")) == package
    with pytest.raises(UsageFault, match="no target called 'audits'; did you mean 'audit'"):
        find_target(TARGETS, "audits")


def test_a_zip_holds_the_folder_and_depends_on_nothing_else(package, tmp_path):
    folder = copy(package, tmp_path)
    (folder / "latency.json").write_text("{}")
    first = make_target(folder, "zip", TARGETS["zip"]).read_bytes()
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    assert make_target(folder, "zip", TARGETS["zip"]).read_bytes() == first
    with zipfile.ZipFile(tmp_path / "first.zip") as archive:
        assert {*archive.namelist(), "latency.json"} == {
            str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()
        }
        assert "main.py" in archive.namelist()
        archive.extractall(tmp_path / "out")
    subprocess.run(["chmod", "-R", "u+rX", tmp_path / "out"], check=True)
    assert verify_package(tmp_path / "out")["files"] == verify_without_receipt(folder)


def verify_without_receipt(folder):
    (folder / "latency.json").unlink()
    return verify_package(folder)["files"]


def test_the_audit_target_holds_no_model_and_renames_source_to_src(full_package, tmp_path):
    audit = make_target(copy(full_package, tmp_path), "audit", TARGETS["audit"])
    assert audit.name == "first-audit"
    assert not list(audit.rglob("*.safetensors"))
    assert (audit / "src/wbdc/train/fit.py").is_file()
    script = (audit / "train.sh").read_text()
    assert '"$HERE/src"' in script
    assert "source/" not in script
    assert os.access(audit / "train.sh", os.X_OK)
    assert {
        "README.md",
        "requirements.txt",
        "Dockerfile",
        "init.sh",
        "train.sh",
        "inference.sh",
        "src",
    } <= {p.name for p in audit.iterdir()}
    assert verify_package(audit)["target"] == "audit"
    assert make_target(tmp_path / "first", "audit", TARGETS["audit"]) == audit
    (tmp_path / "first-zip").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "first-audit" / "manifest.json").unlink()
    with pytest.raises(UsageFault, match="is not a submission of wbdc"):
        make_target(tmp_path / "first", "audit", TARGETS["audit"])


def test_the_audit_target_trains_and_then_predicts_with_the_trained_package(
    full_package, data, tmp_path
):
    """Its train.sh runs the commands of the package (here `wbdc --version`), and its inference.sh
    runs the trained package, whose main.py writes its options here.
    """
    audit = make_target(copy(full_package, tmp_path), "audit", TARGETS["audit"])
    env = {
        **os.environ,
        "DATA": str(data),
        "WORK": str(tmp_path / "again"),
        "RESULT": str(tmp_path / "result.csv"),
        "PYTHON": sys.executable,
    }
    for script in ("train.sh", "inference.sh"):
        ran = subprocess.run(
            ["sh", audit / script, *(["--device", "cpu"] if script == "inference.sh" else [])],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        if script == "train.sh":
            assert (
                (tmp_path / "again" / "version").read_text().startswith("python -m wbdc, version")
            )
            trained = shutil.copytree(full_package, tmp_path / "again" / "submission")
            (trained / "main.py").write_text("import sys\nprint(*sys.argv)\n")
    main_file, *options = ran.stdout.split()
    assert main_file == str(trained / "main.py")
    assert ["--data", str(data), "--out", str(tmp_path / "result.csv")] == options[:4]
    assert "cpu" in options


def test_calls_answer_one_item_per_line(package, data, monkeypatch, capsys):
    """Each line has its own answer; an unreadable line is an error of that line only."""
    items = json.loads((data / "annotations" / "test.json").read_text())[:3]
    calls = [
        item | {"frames": str(data / "zip_frames" / "test" / item["id"][-3:] / f"{item['id']}.zip")}
        for item in items
    ]
    lines = [
        json.dumps(calls[0]),
        "{",
        json.dumps({"id": "x"}),
        json.dumps(calls[1]),
        '{"id": "\\ud800"}',
        "[" * 100_000,
        "1" * 5000,
        json.dumps(calls[2]),
    ]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    words = ["--calls", "--device", "cpu", "--threads", "1"]
    assert main(package, time.perf_counter(), words) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [s.get("id") for s in answers] == [
        items[0]["id"],
        None,
        "x",
        items[1]["id"],
        "\ud800",
        None,
        None,
        items[2]["id"],
    ]
    assert ["error" in s for s in answers] == [False, True, True, False, True, True, True, False]
    assert answers[0]["category_id"] in read_json(next(package.rglob("model.json")))["classes"]
    assert 0 < answers[0]["probability"] <= 1


def test_the_audit_target_cannot_predict_before_training(package, data, tmp_path):
    audit = make_target(copy(package, tmp_path), "audit", TARGETS["audit"])
    with pytest.raises(UsageFault, match="holds no models; run its train.sh first"):
        repeat_predictions(audit, data)


def test_fault_1_leftovers_of_a_target_are_removed_and_a_failure_keeps_it(
    package, tmp_path, monkeypatch
):
    folder, form = copy(package, tmp_path), tmp_path / "first-audit"
    leftover = tmp_path / f".first-audit.{ended_process()}.tmp"
    leftover.mkdir()
    (leftover / "train.sh").touch()
    make_target(folder, "audit", TARGETS["audit"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "first-audit"]

    before = (form / "manifest.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            targets, "write_manifest", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            make_target(folder, "audit", TARGETS["audit"])
    assert (form / "manifest.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "first-audit"]

    form.rename(tmp_path / f".first-audit.{ended_process()}.old.tmp")
    (tmp_path / f".first.zip.{ended_process()}.tmp").touch()
    targets.recover_targets(folder, TARGETS)
    assert verify_package(form)["target"] == "audit"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "first-audit"]
