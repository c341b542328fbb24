"""A packed folder: its content, and its predictions, which equal those of the runs."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import EnvironmentFault, Inconclusive, IntegrityFault, UsageFault
from wbdc.core.files import file_sha256, publish_json, read_json, seal_folder, sealed_facts
from wbdc.core.integrity import verify_seal
from wbdc.ensemble.nested_blend import BlendRule
from wbdc.nets.vision import regions
from wbdc.prepare.dataset import PreparedData
from wbdc.serve.blend_file import Blend, BlendMember, read_blend
from wbdc.serve.entry import ServeOptions, main, serve
from wbdc.submit import pipeline
from wbdc.submit.check.verify import verify_package
from wbdc.submit.pack.package import (
    SHIPPED_FOLDERS,
    PackedMember,
    PackOptions,
    _add_blend,
    kit_path,
    pack_submission,
)
from wbdc.submit.pack.requirements import needed_requirements
from wbdc.submit.pack.scripts import fill
from wbdc.submit.reproduced_runs import Lineage
from wbdc.submit.timing.sandbox import run_packed

OPTIONS = PackOptions(contest=WeChat2022(), precision="fp32", facts={}, training_commands=[])


@pytest.fixture(scope="module")
def package(full_package):
    """The package with all of its source."""
    return full_package


def files(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.slow
def test_a_package_runs_on_its_own_and_predicts_as_the_tree_bit_for_bit(
    package, members, data, tmp_path
):
    """The package runs from / with an empty home, and one model has plugs of its own. The expected
    predictions come from the runs, not from the package.
    """
    run_packed(
        package,
        data,
        tmp_path / "result.csv",
        device="cpu",
        threads=1,
        probabilities=tmp_path / "p.safetensors",
        timings=tmp_path / "t.json",
    )
    blend = Blend(
        "wechat2022", "fp32", tuple(BlendMember(str(m.folder), m.weight) for m in members)
    )
    answers, _ = serve(
        Path("/"),
        blend,
        WeChat2022(),
        data,
        tmp_path / "own.csv",
        ServeOptions(device="cpu", threads=1),
        log=lambda line: None,
        progress=lambda done, total: None,
        start=time.perf_counter(),
    )
    assert load_file(tmp_path / "p.safetensors")["p"].tobytes() == answers.probabilities.tobytes()
    assert (tmp_path / "result.csv").read_bytes() == (tmp_path / "own.csv").read_bytes()
    assert read_json(tmp_path / "t.json")["videos"] == len(answers.probabilities) == 8
    ids = [line.split(",")[0] for line in (tmp_path / "own.csv").read_text().split()]
    assert len(WeChat2022().read_result(tmp_path / "result.csv", ids, answers.classes)) == 8
    assert not list(package.rglob("__pycache__")), "a run writes nothing into the package"


@pytest.mark.slow
def test_trap_17_two_ranks_predict_as_one_process(package, data, tmp_path):
    env = {
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
        "RANKS": "2",
        "OMP_NUM_THREADS": "1",
    }
    options = ["--data", data, "--out", tmp_path / "two.csv", "--device", "cpu", "--threads", "1"]
    ran = subprocess.run(
        ["sh", package / "run.sh", *options, "--probabilities", tmp_path / "p.safetensors"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    one = serve_here(package, read_blend(package), data, tmp_path / "one.csv")
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert load_file(tmp_path / "p.safetensors")["p"].tobytes() == one.tobytes()


def serve_here(
    home: Path,
    blend: Blend,
    data: Path,
    out: Path,
    deadline: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> np.ndarray:
    """Predict in this process with one thread, and return the probabilities."""
    options = ServeOptions(device="cpu", threads=1, deadline=deadline)
    reports = {"log": log, "progress": lambda *counts: None, "start": time.perf_counter()}
    return serve(home, blend, WeChat2022(), data, out, options, **reports)[0].probabilities


@pytest.mark.slow
def test_inference_sh_has_the_contests_deadline_and_takes_another(package, data, tmp_path):
    env = {
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
        "DATA": str(data),
        "RESULT": str(tmp_path / "result.csv"),
    }
    videos = len(json.loads((data / "annotations" / "test.json").read_text()))
    ran = subprocess.run(
        ["sh", package / "inference.sh", "--device", "cpu"],
        env=env | {"DEADLINE": "2.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "out of time" in ran.stderr
    assert len((tmp_path / "result.csv").read_text().splitlines()) == videos

    # without a deadline in the environment, with another main.py, which prints its options
    copy = shutil.copytree(package, tmp_path / "copy")
    (copy / "main.py").write_text("import sys\nprint(*sys.argv[1:])\n")
    printed = subprocess.run(
        ["sh", copy / "inference.sh"], env=env, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split()[-2:] == ["--deadline", "contest"]
    lines = []
    serve_here(package, read_blend(package), data, tmp_path / "own.csv", "contest", lines.append)
    assert not [line for line in lines if "out of time" in line]
    assert len((tmp_path / "own.csv").read_text().splitlines()) == videos


@pytest.mark.parametrize(
    ("deadline", "says"), [("0", "above 0"), ("inf", "finite"), ("soon", "invalid")]
)
def test_an_impossible_deadline_is_refused(package, deadline, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(package, time.perf_counter(), ["--deadline", deadline])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.usefixtures("no_training_source")
def test_a_model_of_optical_flow_requires_opencv(members, tmp_path, monkeypatch):
    """OpenCV is an extra; another package stands in for its distribution."""
    fold = tmp_path / "late-0a1b2c3d" / "fold-0"
    shutil.copytree(members[0].folder, fold)
    model = read_json(fold / "model.json")
    model["blueprint"]["vision"]["motion_input"] = "flow"
    publish_json(fold / "model.json", model)
    seal_folder(fold, {"weights": {}})
    member = PackedMember("late-0a1b2c3d/fold-0", fold, 1.0)
    packages = metadata.packages_distributions()
    monkeypatch.setattr(metadata, "packages_distributions", lambda: packages)
    packages["cv2"] = ["pytest"]
    pack_submission(tmp_path / "packed", [member], OPTIONS)
    line = f"pytest=={metadata.version('pytest')}"
    assert line in (tmp_path / "packed" / "requirements.txt").read_text().split()
    assert line in (tmp_path / "packed" / "source" / "requirements.txt").read_text().split()
    del packages["cv2"]
    with pytest.raises(EnvironmentFault, match="a model encodes optical flow, which OpenCV"):
        pack_submission(tmp_path / "other", [member], OPTIONS)
    assert not (tmp_path / "other").exists()


def test_only_listed_files_are_packed(package):
    """Secrets, training states and caches of the author must not be packed."""
    for path in package.rglob("*"):
        assert not path.is_symlink()
        assert not path.name.startswith(".")
        assert path.suffix != ".pyc"
        assert not path.is_file() or b"planted-secret" not in path.read_bytes(), path
    dual = {p.name for p in (package / "models/dual-4e5f6071/fold-1").iterdir()}
    assert dual == {
        "model.safetensors",
        "model.json",
        "tokenizer.json",
        "kit.json",
        "tiny_tower.py",
    }
    assert {p.name for p in (package / "models/late-0a1b2c3d/fold-0").iterdir()} >= {
        "late.py",
        "tiny_tower.py",
    }
    assert {p.name for p in package.iterdir()} == {
        "wbdc",
        "models",
        "source",
        "blend.json",
        "report.json",
        "sbom.json",
        "weights.json",
        "main.py",
        "run.sh",
        "inference.sh",
        "init.sh",
        "train.sh",
        "requirements.txt",
        "Dockerfile",
        "README.md",
        "manifest.json",
    }


@pytest.mark.usefixtures("no_training_source")
@pytest.mark.slow
def test_a_package_that_fails_its_check_is_not_published(members, tmp_path):
    """Neither as a new folder nor over an earlier package."""
    into = tmp_path / "out"

    def fail(folder: Path) -> None:
        verify_package(folder)
        raise IntegrityFault("predictions differ")

    with pytest.raises(IntegrityFault, match="predictions differ"):
        pack_submission(into, members, OPTIONS, fail)
    assert not list(tmp_path.iterdir())
    pack_submission(
        into, members, OPTIONS, lambda folder: publish_json(folder / "latency.json", {})
    )
    assert (into / "latency.json").is_file()
    before = files(into)
    with pytest.raises(IntegrityFault, match="predictions differ"):
        pack_submission(into, members[:1], OPTIONS, fail)
    assert files(into) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("no_training_source")
@pytest.mark.slow
def test_a_package_with_weights_by_class_predicts_as_the_runs_bit_for_bit(members, data, tmp_path):
    weights = np.random.default_rng(0).uniform(0.1, 1, (2, 7))
    by_class = [
        m._replace(class_weights=tuple(w)) for m, w in zip(members, weights.tolist(), strict=True)
    ]
    home = tmp_path / "packed"
    pack_submission(home, by_class, OPTIONS)
    packed = serve_here(home, read_blend(home), data, tmp_path / "result.csv")

    def predict(*models: PackedMember) -> np.ndarray:
        entries = (
            BlendMember(str(m.folder), m.weight, class_weights=m.class_weights) for m in models
        )
        blend = Blend("wechat2022", "fp32", tuple(entries))
        return serve_here(Path("/"), blend, data, tmp_path / "own.csv")

    assert packed.tobytes() == predict(*by_class).tobytes()
    single = np.stack([predict(member) for member in members])
    np.testing.assert_allclose(packed, BlendRule(weights).blend(single), rtol=1e-5)


def test_class_weights_are_packed(tmp_path):
    shares = ((0.25, 0.75), (0.75, 0.25))
    members = tuple(
        BlendMember("f", 0.5, run="r", fold=str(i), class_weights=weights)
        for i, weights in enumerate(shares)
    )
    packed = pipeline.packed_members(tmp_path, Blend("wechat2022", "fp32", members))
    _add_blend(tmp_path, packed, OPTIONS)
    assert tuple(m.class_weights for m in read_blend(tmp_path).members) == shares


def test_the_sharpness_of_a_geometric_mean_is_packed(tmp_path):
    _add_blend(tmp_path, [], replace(OPTIONS, sharpness=1.5))
    assert read_blend(tmp_path).sharpness == 1.5


@pytest.fixture
def submit_toy(members, data, tmp_path, monkeypatch):
    """Return a function that submits one model without a proof, with a time check."""
    home = members[0].folder.parents[1]
    member = BlendMember(str(members[0].folder), 1.0, run="late-0a1b2c3d", fold="0")
    blend = Blend("wechat2022", "fp32", (member,))
    prepared = PreparedData(
        tmp_path, SimpleNamespace(competition="wechat2022", groups=None, corrected_labels=None)
    )
    source = pipeline.SubmissionSource(home, blend, prepared, data, report={})
    monkeypatch.setattr(pipeline, "list_training_commands", lambda *_: [])
    monkeypatch.setattr(pipeline, "trace_lineage", lambda *_: Lineage(home))
    monkeypatch.setattr(pipeline, "prove_equal_predictions", lambda *_, **__: {"videos": 8})

    def submit(into: Path) -> dict:
        quiet = (lambda *counts: None, lambda line: None)
        options = pipeline.SubmitOptions(rehearsal=pipeline.RehearsalOptions())
        return pipeline.make_submission(into, source, options, *quiet)

    return submit


@pytest.mark.usefixtures("no_training_source")
@pytest.mark.parametrize("step", ["prove_equal_predictions", "rehearse"])
def test_submit_publishes_nothing_when_the_proof_or_the_time_check_fails(
    step, submit_toy, tmp_path, monkeypatch
):
    def fail(folder: Path, *_, **__) -> None:
        assert verify_package(folder)["members"] == ["late-0a1b2c3d/fold-0"]
        raise IntegrityFault("no good")

    monkeypatch.setattr(pipeline, step, fail)
    with pytest.raises(IntegrityFault, match="no good"):
        submit_toy(tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_training_source")
def test_a_time_check_that_runs_out_of_time_still_publishes_the_folder(
    submit_toy, tmp_path, monkeypatch
):
    def run_out(folder: Path, *_, **__) -> None:
        raise Inconclusive("the cap of 60 s was used up")

    monkeypatch.setattr(pipeline, "rehearse", run_out)
    submission = submit_toy(tmp_path / "out")
    assert submission["latency"] == {
        "verdict": "INCONCLUSIVE",
        "sentence": "the cap of 60 s was used up",
        "code": 6,
    }
    assert verify_package(tmp_path / "out")["latency"] is None


TOKEN = "hf_" + "Ab1" * 12


def in_a_plug(folder: Path) -> str:
    (folder / "late.py").write_text((folder / "late.py").read_text() + f"\nTOKEN = '{TOKEN}'\n")
    return r"late\.py"


def in_the_kit(folder: Path) -> str:
    publish_json(folder / "kit.json", read_json(folder / "kit.json") | {"about": TOKEN})
    return r"late\.json"


@pytest.mark.usefixtures("no_training_source")
@pytest.mark.parametrize("plant", [in_a_plug, in_the_kit])
def test_fault_40_a_token_in_what_is_packed_is_refused(plant, members, tmp_path):
    """Plugs and kits are listed, so their content is checked as well."""
    folder = shutil.copytree(members[0].folder, tmp_path / "late-1/fold-0")
    named = plant(folder)
    facts = sealed_facts(folder)
    (folder / "DONE.json").unlink()
    seal_folder(folder, facts)
    with pytest.raises(UsageFault, match=f"{named} \\(a token of Hugging Face\\)") as refused:
        pack_submission(tmp_path / "out", [PackedMember("late-1/fold-0", folder, 1.0)], OPTIONS)
    assert TOKEN not in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == ["late-1"], "no temporary folder remains"


def test_wbdc_in_a_package_can_serve_and_not_train(package):
    assert {p.name for p in (package / "wbdc").iterdir()} == {*SHIPPED_FOLDERS, "__init__.py"}
    assert (package / "wbdc/competitions/wechat2022_counts.json").is_file()
    for path in (package / "wbdc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                assert not name.startswith("wbdc.") or name.split(".")[1] in SHIPPED_FOLDERS, (
                    f"{path} reaches up to {name}"
                )
                assert name.split(".")[0] not in ("polars", "click", "rich", "sklearn", "pandas"), (
                    f"{path} imports {name}"
                )


def test_kits_keep_their_names_in_a_package(package):
    assert kit_path("late-0a1b2c3d/fold-0") == "source/kits/late-0a1b2c3d/late.json"
    assert (package / kit_path("late-0a1b2c3d/fold-0")).is_file()
    assert (package / "source/kits/late-0a1b2c3d/late.py").is_file()
    assert (package / "source/wbdc/train/fit.py").is_file()
    assert (package / "source/wbdc/__main__.py").is_file()
    assert "polars==" in (package / "source/requirements.txt").read_text()


def test_train_sh_runs_all_of_wbdc_and_not_the_serving_part_beside_it(package, tmp_path):
    """`python -m` would import wbdc from the current folder, which cannot train. Relative paths
    belong to the caller.
    """
    (tmp_path / "raw").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "DATA": "raw", "WORK": "made"}
    ran = subprocess.run(
        ["sh", package / "train.sh"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "version" in (tmp_path / "made/version").read_text()
    assert verify_package(package)["latency"] is None, "training again does not change the package"


def test_the_scripts_are_valid_and_executable(package):
    for name in ("run.sh", "inference.sh", "init.sh", "train.sh"):
        assert os.access(package / name, os.X_OK)
        assert subprocess.run(["sh", "-n", package / name], check=False).returncode == 0
        assert "@" not in (package / name).read_text().replace('"$@"', "")
    assert "/opt/ml/output/result.csv" in (package / "inference.sh").read_text()


def test_requirements_are_the_imported_packages(package, tmp_path):
    names = {line.split("==")[0] for line in (package / "requirements.txt").read_text().split()}
    assert names == {
        "torch",
        "transformers",
        "tokenizers",
        "safetensors",
        "numpy",
        "simplejpeg",
        "pillow",
    }
    assert all(
        re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)
        for line in (package / "requirements.txt").read_text().split()
    )
    (tmp_path / "own.py").write_text("import timm\nimport os\ndef f():\n    import filelock\n")
    assert needed_requirements([tmp_path / "own.py"]).startswith("timm==")
    assert "torchvision==" in needed_requirements([Path(regions.__file__)])


@pytest.mark.usefixtures("no_training_source")
def test_a_vision_library_is_required_when_a_model_uses_it(members, tmp_path):
    folder = shutil.copytree(members[0].folder, tmp_path / "timm-1/fold-0")
    model = read_json(folder / "model.json")
    model["blueprint"]["vision"] = {"use": "timm", "model": "test_resnet", "pretrained": False}
    publish_json(folder / "model.json", model)
    (folder / "DONE.json").unlink()
    seal_folder(folder, {})
    pack_submission(tmp_path / "out", [PackedMember("timm-1/fold-0", folder, 1.0)], OPTIONS)
    text = (tmp_path / "out/requirements.txt").read_text()
    assert "timm==" in text
    assert "open_clip" not in text


SCRIPT = """
import os, sys
from pathlib import Path

import wbdc
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.submit.pack.package import PackedMember, PackOptions, pack_submission
from wbdc.submit.pipeline import source_hash

os.umask(0o077)
assert Path(wbdc.__file__).parents[1] == Path(sys.argv[2]), wbdc.__file__
members = [PackedMember(name, Path(folder), weight) for name, folder, weight in @MEMBERS@]
options = PackOptions(
    contest=WeChat2022(),
    precision="fp32",
    facts={"score": {"mean": 0.7123}, "commit": "abc1234"},
    training_commands=['wbdc --version > "$WORK/version"'],
)
pack_submission(Path(sys.argv[1]), members, options)
print(source_hash())
"""


def pack_in_child(members, into: Path, home: Path, **settings) -> str:
    """Pack as the fixture `package`, in a new process that imports wbdc from `home`."""
    code = fill(SCRIPT, members=repr([(m.name, str(m.folder), m.weight) for m in members]))
    child = subprocess.run(
        [sys.executable, "-P", "-c", code, str(into), str(home)],
        check=True,
        capture_output=True,
        text=True,
        **settings,
    )
    return child.stdout.strip()


@pytest.mark.slow
def test_a_checkout_and_an_installed_wheel_pack_equal_bytes(package, members, tmp_path):
    """Under another time zone, language, umask, hash seed, folder and time of the files. The wheel
    holds the kits as wbdc/kits; in a checkout they are beside wbdc.
    """
    import wbdc

    for member in members:
        os.utime(member.folder / "model.json", (1, 1))
    home = Path(wbdc.__file__).parent
    site = tmp_path / "site"
    shutil.copytree(home, site / "wbdc", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(home.parent / "kits", site / "wbdc" / "kits")
    env = {
        **os.environ,
        "PYTHONPATH": str(site),
        "TZ": "Asia/Tokyo",
        "LANG": "de_DE.UTF-8",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
    }
    source_hash = pack_in_child(members, tmp_path / "out", site, env=env, cwd=tmp_path)
    assert files(tmp_path / "out") == files(package)
    assert (tmp_path / "out/run.sh").stat().st_mode & 0o777 == 0o700
    assert (package / "source/wbdc/kits/dual_stream.toml").is_file()
    assert (package / "source/wbdc/kits/wbdc2022/rank8/recipe.toml").is_file()
    assert source_hash == pipeline.source_hash()


def test_the_readme_states_members_scores_and_sizes(package, members):
    text = (package / "README.md").read_text()
    weights = file_sha256(members[0].folder / "model.safetensors")
    for text_part in (
        "| late-0a1b2c3d/fold-0 | 2 |",
        "score.mean: 0.7123",
        "commit: abc1234",
        "random weights",
        "| models/ |",
        weights,
    ):
        assert text_part in text, text_part
    assert "@" not in text


@pytest.mark.usefixtures("no_training_source")
def test_an_earlier_package_is_replaced_and_other_folders_are_refused(members, tmp_path):
    into = tmp_path / "mine"
    into.mkdir()
    (into / "thesis.txt").write_text("precious")
    with pytest.raises(UsageFault, match="not a submission"):
        pack_submission(into, members, OPTIONS)
    assert (into / "thesis.txt").read_text() == "precious"
    (into / "manifest.json").write_text("{}")
    pack_submission(into, members, OPTIONS)
    assert not (into / "thesis.txt").exists()
    assert (into / "main.py").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["mine"], "no temporary folder remains"


def test_bad_members_are_refused_before_anything_is_written(members, tmp_path):
    bad = shutil.copytree(members[0].folder, tmp_path / "bad")
    for bad_members, fault, message in (
        ([], UsageFault, "one or more"),
        ([members[0], members[0]], UsageFault, "each once"),
        ([members[0]._replace(name="../up")], UsageFault, "name"),
        ([members[0]._replace(weight=-1.0)], UsageFault, "weight"),
        ([members[0]._replace(weight=0.0)], UsageFault, "sum to 0"),
        ([members[0]._replace(folder=tmp_path)], UsageFault, "not finished"),
    ):
        with pytest.raises(fault, match=message):
            pack_submission(tmp_path / "out", bad_members, OPTIONS)
    assert sealed_facts(bad)
    assert verify_seal(bad)
    (bad / "model.safetensors").write_bytes((bad / "model.safetensors").read_bytes()[:-1] + b"\x07")
    with pytest.raises(IntegrityFault, match=r"model\.safetensors"):
        pack_submission(tmp_path / "out", [members[0]._replace(folder=bad)], OPTIONS)
    assert not (tmp_path / "out").exists()


def test_wbdc_in_a_package_finds_its_requirements_without_being_installed(package, monkeypatch):
    """On the judge's machine only the requirements are installed; wbdc runs from `source`."""
    import wbdc
    from wbdc.submit.pack import requirements as module

    monkeypatch.setattr(
        module.metadata,
        "requires",
        lambda name: (_ for _ in ()).throw(module.metadata.PackageNotFoundError(name)),
    )
    monkeypatch.setattr(wbdc, "__file__", str(package / "source" / "wbdc" / "__init__.py"))
    assert module.all_requirements() == (package / "source" / "requirements.txt").read_text()


def test_the_readme_explains_the_precision_auto(tmp_path):
    from wbdc.competitions import JudgePaths
    from wbdc.submit.pack.readme import package_readme

    judge = JudgePaths("/data", "/result.csv")
    gain = "+0.0123 [-0.0045, +0.0267], within noise"
    text = package_readme(
        tmp_path,
        competition="wechat2022",
        precision="auto",
        judge=judge,
        members=[],
        facts={"gain over a-run": gain},
        provenance="",
    )
    assert "in auto" not in text
    assert "in the precision that suits the machine: FP16 on a GPU" in text
    assert f"* gain over a-run: {gain}" in text
