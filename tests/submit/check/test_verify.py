"""Every kind of tampering is found before anything of the folder runs; invalid result files are
refused.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toys

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import IntegrityFault, ResultFault
from wbdc.core.files import publish_json, read_json
from wbdc.submit.check.manifest import manifest_hash
from wbdc.submit.check.verify import verify_package


@pytest.fixture
def copy(package, tmp_path):
    return shutil.copytree(package, tmp_path / "copy")


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_an_untouched_copy_passes(copy):
    summary = verify_package(copy)
    assert summary["competition"] == "wechat2022"
    assert summary["latency"] is None
    assert summary["members"] == ["late-0a1b2c3d/fold-0", "dual-4e5f6071/fold-1"]
    assert (
        summary["bytes"]
        == sum(p.stat().st_size for p in copy.rglob("*") if p.is_file())
        - (copy / "manifest.json").stat().st_size
    )


TAMPERS = {
    "weights changed": (
        lambda f: flip(f / "models/late-0a1b2c3d/fold-0/model.safetensors"),
        r"model\.safetensors \(changed\)",
    ),
    "code changed": (lambda f: flip(f / "wbdc/serve/engine.py"), r"engine\.py \(changed\)"),
    "missing": (lambda f: (f / "wbdc/core/tokens.py").unlink(), r"tokens\.py \(missing\)"),
    "extra": (
        lambda f: (f / "sitecustomize.py").write_text("raise SystemExit"),
        r"sitecustomize\.py \(extra\)",
    ),
    "hidden extra": (lambda f: (f / "wbdc/.env").write_text("x"), r"\.env \(extra\)"),
    "nested manifest": (
        lambda f: (f / "models/manifest.json").write_text("{}"),
        r"models/manifest\.json \(extra\)",
    ),
    "link": (
        lambda f: (
            (f / "blend.json").rename(f.parent / "b")
            and (f / "blend.json").symlink_to(f.parent / "b")
        ),
        r"blend\.json \(a link\)",
    ),
    "linked folder": (lambda f: (f / "more").symlink_to(f.parent), r"more \(a link\)"),
    "manifest changed": (
        lambda f: publish_json(
            f / "manifest.json", {**read_json(f / "manifest.json"), "precision": "fp16"}
        ),
        "changed after packing",
    ),
    "manifest missing": (lambda f: (f / "manifest.json").unlink(), "missing"),
    "manifest cut": (lambda f: (f / "manifest.json").write_text("{"), "damaged"),
    "receipt of other bytes": (
        lambda f: publish_json(f / "latency.json", {"package_sha256": "0" * 64}),
        "belongs to another package",
    ),
}


@pytest.mark.parametrize("kind", TAMPERS)
def test_tampering_is_found(copy, kind):
    tamper, says = TAMPERS[kind]
    tamper(copy)
    with pytest.raises(IntegrityFault, match=says):
        verify_package(copy)


def test_at_most_ten_files_are_listed(copy):
    for number in range(15):
        (copy / f"extra-{number:02d}").write_text("x")
    with pytest.raises(IntegrityFault, match="15 differences") as raised:
        verify_package(copy)
    assert str(raised.value).count("(extra)") == 10


def test_a_receipt_of_this_package_is_returned(copy):
    publish_json(
        copy / "latency.json",
        {"package_sha256": verify_package(copy)["package_sha256"], "verdict": "PASS"},
    )
    assert verify_package(copy)["latency"]["verdict"] == "PASS"


@pytest.mark.parametrize(
    "name",
    ["wbdc/serve/entry.py", "models/dual-4e5f6071/fold-1/model.safetensors", "manifest.json"],
)
def test_a_damaged_package_refuses_to_run_before_it_imports_anything(copy, name):
    flip(copy / name) if name != "manifest.json" else (copy / name).unlink()
    ran = subprocess.run(
        [sys.executable, "-I", copy / "main.py"],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert ran.returncode == 4
    assert name in ran.stderr
    assert ran.stderr.count("\n") == 1


def start(folder, *before) -> subprocess.CompletedProcess:
    """Run main.py as the judge does; --help ends it after all imports."""
    command = [sys.executable, *(before or ["-I"]), folder / "main.py", "--help"]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, timeout=60)


PLANTED = "raise SystemExit('planted code ran')"


@pytest.mark.slow
@pytest.mark.parametrize("options", [["-I"], ["-B"]], ids=["isolated", "not isolated"])
def test_nothing_beside_main_py_is_imported(copy, options):
    """main.py does not check the files beside it, so it must not import them either."""
    for name in ("torch", "numpy", "safetensors", "hashlib", "json", "argparse"):
        (copy / f"{name}.py").write_text(PLANTED)
    ran = start(copy, *options)
    assert ran.returncode == 0, ran.stderr
    assert "--probabilities" in ran.stdout


def compiled(folder, name: str) -> str:
    """Add bytecode that Python would read instead of the source: its time and size match."""
    path = folder / name
    cached = Path(importlib.util.cache_from_source(str(path)))
    cached.parent.mkdir(exist_ok=True)
    code = importlib._bootstrap_external._code_to_timestamp_pyc(
        compile(PLANTED, str(path), "exec"), int(path.stat().st_mtime), path.stat().st_size
    )
    cached.write_bytes(code)
    return str(cached.relative_to(folder))


def shadow(folder) -> str:
    (folder / "wbdc/core/files").mkdir()
    (folder / "wbdc/core/files/__init__.py").write_text(PLANTED)
    return "wbdc/core/files/__init__.py (extra)"


def unlist(folder) -> str:
    """Remove a file from the manifest, so that nothing compares it, and change it."""
    manifest = read_json(folder / "manifest.json")
    del manifest["files"]["wbdc/core/tokens.py"]
    publish_json(folder / "manifest.json", manifest)
    (folder / "wbdc/core/tokens.py").write_text(PLANTED)
    return "manifest.json (changed)"


def unlist_and_hash(folder) -> str:
    unlist(folder)
    manifest = read_json(folder / "manifest.json")
    publish_json(folder / "manifest.json", manifest | {"package_sha256": manifest_hash(manifest)})
    return "wbdc/core/tokens.py (extra)"


def pipe(folder) -> str:
    (folder / "wbdc/core/tokens.py").unlink()
    os.mkfifo(folder / "wbdc/core/tokens.py")
    return "wbdc/core/tokens.py (not a regular file)"


def plant_model_code(folder) -> str:
    (folder / "models/helper.py").write_text(PLANTED)
    return "models/helper.py (extra)"


PLANTS = {
    "a folder over a file": shadow,
    "bytecode of wbdc": lambda f: compiled(f, "wbdc/core/tokens.py"),
    "bytecode of a plug": lambda f: compiled(f, "models/late-0a1b2c3d/fold-0/late.py"),
    "an entry dropped": unlist,
    "an entry dropped and the manifest hashed again": unlist_and_hash,
    "a pipe": pipe,
    "a file among the models": plant_model_code,
}


@pytest.mark.parametrize("kind", PLANTS)
def test_only_listed_files_run_on_the_judges_machine(copy, kind):
    named = PLANTS[kind](copy)
    ran = start(copy)
    assert ran.returncode == 4, ran.stdout + ran.stderr
    assert named in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert "planted code ran" not in ran.stderr
    with pytest.raises(IntegrityFault):
        verify_package(copy)


@pytest.mark.slow
def test_the_bytes_that_were_checked_are_the_bytes_that_run(copy):
    """Code that changes after the check is not read, and neither is new bytecode."""
    late = f"""
import os; from pathlib import Path
for path in Path({str(copy)!r}).glob("wbdc/**/*.py"): path.write_text({PLANTED!r})
"""
    main = copy / "main.py"
    main.write_text(main.read_text().replace("sys.meta_path.insert", late + "sys.meta_path.insert"))
    ran = start(copy)
    assert ran.returncode == 0, ran.stderr
    assert "--probabilities" in ran.stdout


@pytest.mark.slow
def test_tracebacks_and_inspect_find_the_source(copy):
    """torch.compile and transformers read the source of classes."""
    shows = """
import inspect, traceback
from wbdc.core import plug
from wbdc import competitions
assert inspect.getsource(main).startswith("def main(") and main.__module__ in sys.modules
assert competitions.__path__ and plug.plug_names(competitions) == ["table", "wechat2022"]
try:
    plug.find_plug(competitions, "nobody")
except Exception:
    assert 'raise UsageFault(f"no {plug_kind(package)} called' in traceback.format_exc()
    print("shown")
"""
    main = copy / "main.py"
    main.write_text(main.read_text().replace("sys.exit(main(HOME, BEGAN))", shows))
    ran = start(copy)
    assert ran.stdout == "shown\n", ran.stderr


BROKEN_MANIFESTS = {
    "a list": b"[]",
    "nothing": b"null",
    "a list of files": b'{"files": []}',
    "an entry without a hash": b'{"files": {"wbdc/x": 3}}',
    "no hash": b'{"files": {"wbdc/x": {"bytes": 3}}}',
    "cut": b'{"files": {"wbdc/x": {"by',
    "empty": b"",
    "deeply nested": b"[" * 100_000,
    "a long number": b'{"files": ' + b"1" * 5000 + b"}",
    "not UTF-8": b'{"files": {"\xff": {}}}',
    "half a character": b'{"files": {"\\ud800": {}}, "package_sha256": "x"}',
}


def add_hash(content: bytes) -> bytes:
    """Add the matching hash to a manifest of another shape."""
    manifest = json.loads(content)
    return json.dumps(manifest | {"package_sha256": manifest_hash(manifest)}).encode()


BOUND_MANIFESTS = {
    f"{kind}, with its hash": add_hash(content)
    for kind, content in BROKEN_MANIFESTS.items()
    if kind in ("a list of files", "an entry without a hash", "no hash")
}


@pytest.mark.parametrize("kind", BROKEN_MANIFESTS | BOUND_MANIFESTS)
def test_a_broken_manifest_is_refused_in_one_sentence(copy, kind):
    (copy / "manifest.json").write_bytes((BROKEN_MANIFESTS | BOUND_MANIFESTS)[kind])
    ran = start(copy)
    assert ran.returncode == 4, ran.stderr
    assert "manifest.json" in ran.stderr
    assert ran.stderr.count("\n") == 1
    with pytest.raises(IntegrityFault, match="manifest.json"):
        verify_package(copy)


def test_a_pipe_in_place_of_the_manifest_or_the_receipt_does_not_hang(copy):
    os.mkfifo(copy / "latency.json")
    with pytest.raises(IntegrityFault, match="latency.json"):
        verify_package(copy)
    (copy / "manifest.json").unlink()
    os.mkfifo(copy / "manifest.json")
    assert start(copy).returncode == 4
    with pytest.raises(IntegrityFault, match="manifest.json"):
        verify_package(copy)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["PASS"], 0),
        (["FAIL"], 5),
        (["INCONCLUSIVE"], 6),
        (["INCONCLUSIVE", "FAIL", None], 5),
        ([None], 0),
    ],
)
def test_the_exit_code_is_that_of_the_time_check(package, tmp_path, words, code):
    folders = [shutil.copytree(package, tmp_path / str(number)) for number in range(len(words))]
    for folder, word in zip(folders, words, strict=True):
        if word:
            receipt = {"package_sha256": read_json(folder / "manifest.json")["package_sha256"]}
            publish_json(
                folder / "latency.json", receipt | {"verdict": word, "sentence": "It needs 9 s"}
            )
    ran = toys.wbdc("verify", *folders)
    assert ran.exit_code == code, ran.stderr
    assert ("FAIL: It needs 9 s" in ran.stdout) == ("FAIL" in words)
    assert toys.wbdc("verify", *folders, "--json").exit_code == code


BROKEN_RECEIPTS = {
    "a list": lambda hash: b"[]",
    "nothing": lambda hash: b"null",
    "only its hash": lambda hash: json.dumps({"package_sha256": hash}).encode(),
    "no word": lambda hash: json.dumps({"package_sha256": hash, "verdict": {}}).encode(),
    "an unknown word": lambda hash: json.dumps(
        {"package_sha256": hash, "verdict": "FINE"}
    ).encode(),
    "cut": lambda hash: json.dumps({"package_sha256": hash}).encode()[:-9],
    "deeply nested": lambda hash: b"[" * 100_000,
    "not UTF-8": lambda hash: b"\xff",
}


@pytest.mark.parametrize("kind", BROKEN_RECEIPTS)
def test_a_broken_receipt_is_refused_in_one_sentence(copy, kind):
    content = BROKEN_RECEIPTS[kind](read_json(copy / "manifest.json")["package_sha256"])
    (copy / "latency.json").write_bytes(content)
    with pytest.raises(IntegrityFault, match="latency.json"):
        verify_package(copy)


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


def test_a_valid_result_is_read_in_the_order_of_the_ids(tmp_path):
    (tmp_path / "r.csv").write_bytes(b"12345678901234567890,0101\n0001,0100\n")
    assert WeChat2022().read_result(tmp_path / "r.csv", IDS, CLASSES) == ["0100", "0101"]


@pytest.mark.parametrize("kind", RESULTS)
def test_an_invalid_result_is_refused(tmp_path, kind):
    (tmp_path / "r.csv").write_bytes(RESULTS[kind])
    with pytest.raises(ResultFault):
        WeChat2022().read_result(tmp_path / "r.csv", IDS, CLASSES)


def test_verify_without_a_packed_folder_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions" / "README.md").write_text("packed folders")
    for words in ((), ("submissions/README.md",)):
        result = toys.wbdc("verify", *words)
        assert result.exit_code == 2
        assert "there is no packed folder to verify" in result.stderr
