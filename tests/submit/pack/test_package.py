"""A packed folder: what it holds, what it does not, that it runs alone and answers as the tree
does.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import Inconclusive, IntegrityBroken, UsageFault
from wbdc.core.files import file_sha256, publish_json, read_json, seal_folder, sealed_facts
from wbdc.core.integrity import verify_seal
from wbdc.prepare.dataset import PreparedData
from wbdc.serve.blend_file import Blend, BlendMember
from wbdc.serve.entry import main, serve
from wbdc.submit import pipeline
from wbdc.submit.check.verify import verify_package
from wbdc.submit.pack.package import (
    SHIPPED_FOLDERS,
    PackedMember,
    PackOptions,
    kit_path,
    pack_submission,
)
from wbdc.submit.pack.requirements import needed_requirements
from wbdc.submit.timing.sandbox import run_packed

OPTIONS = PackOptions(contest=WeChat2022(), precision="fp32", facts={}, training_commands=[])


def files(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_it_runs_alone_and_equals_the_tree_bit_for_bit(package, members, data, tmp_path):
    """The child runs from / with an empty home; one model brings plugs of its own. The tree
    computes from the runs, not from the package.
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
        split=None,
        device="cpu",
        precision=None,
        threads=1,
        say=lambda line: None,
        progress=lambda done, of: None,
        began=time.perf_counter(),
    )
    assert load_file(tmp_path / "p.safetensors")["p"].tobytes() == answers.probabilities.tobytes()
    assert (tmp_path / "result.csv").read_bytes() == (tmp_path / "own.csv").read_bytes()
    assert read_json(tmp_path / "t.json")["videos"] == len(answers.probabilities) == 8
    ids = [line.split(",")[0] for line in (tmp_path / "own.csv").read_text().split()]
    assert len(WeChat2022().read_result(tmp_path / "result.csv", ids, answers.classes)) == 8
    assert not list(package.rglob("__pycache__")), "a run leaves nothing behind"


def test_trap_17_two_ranks_answer_as_one_process_does(package, data, tmp_path):
    one, two = (
        {
            "PATH": os.environ["PATH"],
            "PYTHON": sys.executable,
            "RANKS": ranks,
            "OMP_NUM_THREADS": "1",
        }
        for ranks in ("1", "2")
    )
    for env in (one, two):
        into = tmp_path / env["RANKS"]
        given = [
            "--data",
            data,
            "--out",
            into / "result.csv",
            "--probabilities",
            into / "p.safetensors",
            "--device",
            "cpu",
            "--threads",
            "1",
        ]
        into.mkdir()
        ran = subprocess.run(
            ["sh", package / "run.sh", *given], env=env, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
    assert all(
        (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
        for name in ("result.csv", "p.safetensors")
    )


def test_the_judges_script_has_the_contests_deadline_and_takes_another(package, data, tmp_path):
    env = {
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
        "DATA": str(data),
        "RESULT": str(tmp_path / "result.csv"),
    }
    for deadline in ("contest", "2.1"):
        ran = subprocess.run(
            ["sh", package / "inference.sh", "--device", "cpu"],
            env=env | {"DEADLINE": deadline},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0 and ("out of time" in ran.stderr) == (deadline == "2.1"), (
            ran.stderr
        )
        assert len((tmp_path / "result.csv").read_text().splitlines()) == len(
            json.loads((data / "annotations" / "test.json").read_text())
        )


@pytest.mark.parametrize(
    ("deadline", "says"), [("0", "no time at all"), ("inf", "no end"), ("soon", "invalid")]
)
def test_a_deadline_that_cannot_be_is_refused(package, deadline, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(package, time.perf_counter(), ["--deadline", deadline])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_only_what_is_listed_is_packed(package):
    """Trap: secrets, states and caches of the author's tree in the image."""
    for path in package.rglob("*"):
        assert not path.is_symlink() and not path.name.startswith(".") and path.suffix != ".pyc", (
            path
        )
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


def test_a_package_that_fails_its_check_is_not_published(members, tmp_path):
    """Neither a new folder nor one over an earlier package: `verify` would call it good."""
    into = tmp_path / "out"

    def fail(folder: Path) -> None:
        verify_package(folder)
        raise IntegrityBroken("the packed folder answers otherwise")

    with pytest.raises(IntegrityBroken, match="answers otherwise"):
        pack_submission(into, members, OPTIONS, fail)
    assert not list(tmp_path.iterdir())
    pack_submission(
        into, members, OPTIONS, lambda folder: publish_json(folder / "latency.json", {})
    )
    assert (into / "latency.json").is_file()
    before = files(into)
    with pytest.raises(IntegrityBroken, match="answers otherwise"):
        pack_submission(into, members[:1], OPTIONS, fail)
    assert files(into) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def submit_toy(members, data, tmp_path, monkeypatch):
    """Submit one model, unproven, with a time check: call it with the folder to publish."""
    home = members[0].folder.parents[1]
    member = BlendMember(str(members[0].folder), 1.0, run="late-0a1b2c3d", fold="0")
    blend = Blend("wechat2022", "fp32", (member,))
    monkeypatch.setattr(pipeline, "training_commands", lambda *given: [])
    monkeypatch.setattr(pipeline, "source_runs", lambda *given: {})
    monkeypatch.setattr(pipeline, "prove_equal_predictions", lambda *given, **how: {"videos": 8})

    def submit(into: Path) -> dict:
        quiet = (lambda *of: None, lambda line: None)
        options = pipeline.SubmitOptions(rehearsal=pipeline.RehearsalOptions())
        return pipeline.make_submission(
            into,
            home,
            blend,
            PreparedData(tmp_path, SimpleNamespace(competition="wechat2022")),
            data,
            {},
            options,
            *quiet,
        )

    return submit


@pytest.mark.parametrize("step", ["prove_equal_predictions", "rehearse"])
def test_submit_publishes_nothing_when_the_proof_or_the_time_check_fails(
    step, submit_toy, tmp_path, monkeypatch
):
    def fail(folder: Path, *given, **how) -> None:
        assert verify_package(folder)["members"] == ["late-0a1b2c3d/fold-0"]
        raise IntegrityBroken("no good")

    monkeypatch.setattr(pipeline, step, fail)
    with pytest.raises(IntegrityBroken, match="no good"):
        submit_toy(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_time_check_that_runs_out_of_time_still_publishes_the_folder(
    submit_toy, tmp_path, monkeypatch
):
    def run_out(folder: Path, *given, **how) -> None:
        raise Inconclusive("the cap of 60 s was used up")

    monkeypatch.setattr(pipeline, "rehearse", run_out)
    made = submit_toy(tmp_path / "out")
    assert made["latency"] == {
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


@pytest.mark.parametrize("plant", [in_a_plug, in_the_kit])
def test_fault_40_a_token_in_what_is_packed_is_refused(plant, members, tmp_path):
    """The allow-list lets plugs and kits in, so their content is read as well."""
    folder = shutil.copytree(members[0].folder, tmp_path / "late-1/fold-0")
    named = plant(folder)
    facts = sealed_facts(folder)
    (folder / "DONE.json").unlink()
    seal_folder(folder, facts)
    with pytest.raises(UsageFault, match=f"{named} \\(a token of Hugging Face\\)") as refused:
        pack_submission(tmp_path / "out", [PackedMember("late-1/fold-0", folder, 1.0)], OPTIONS)
    assert TOKEN not in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == ["late-1"], "nothing is left behind"


def test_it_holds_the_serving_floors_and_nothing_that_trains(package):
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


def test_the_kits_train_again_under_their_own_names(package):
    assert kit_path("late-0a1b2c3d/fold-0") == "source/kits/late-0a1b2c3d/late.json"
    assert (package / kit_path("late-0a1b2c3d/fold-0")).is_file()
    assert (package / "source/kits/late-0a1b2c3d/late.py").is_file()
    assert (package / "source/wbdc/train/fit.py").is_file()
    assert (package / "source/wbdc/__main__.py").is_file()
    assert "polars==" in (package / "source/requirements.txt").read_text()


def test_train_sh_runs_the_whole_wbdc_and_not_the_floors_beside_it(package, tmp_path):
    """`python -m` would look into the current folder first, whose wbdc/ cannot train. Relative
    paths are the caller's.
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
    assert verify_package(package)["latency"] is None, "training again leaves the package as it was"


def test_the_scripts_are_sound_and_executable(package):
    for name in ("run.sh", "inference.sh", "init.sh", "train.sh"):
        assert os.access(package / name, os.X_OK)
        assert subprocess.run(["sh", "-n", package / name], check=False).returncode == 0
        assert "@" not in (package / name).read_text().replace('"$@"', "")
    assert "/opt/ml/output/result.csv" in (package / "inference.sh").read_text()


def test_requirements_name_what_the_files_import_and_no_more(package, tmp_path):
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


def test_a_vision_library_is_required_when_a_model_looks_with_it(members, tmp_path):
    folder = shutil.copytree(members[0].folder, tmp_path / "timm-1/fold-0")
    told = read_json(folder / "model.json")
    told["blueprint"]["vision"] = {"use": "timm", "model": "test_resnet", "pretrained": False}
    publish_json(folder / "model.json", told)
    (folder / "DONE.json").unlink()
    seal_folder(folder, {})
    pack_submission(tmp_path / "out", [PackedMember("timm-1/fold-0", folder, 1.0)], OPTIONS)
    text = (tmp_path / "out/requirements.txt").read_text()
    assert "timm==" in text
    assert "open_clip" not in text


def test_equal_inputs_give_equal_bytes(package, members, tmp_path):
    """Under another time zone, language, umask, hash seed, folder and time of the files."""
    code = (
        "import os, sys; os.umask(0o077); from pathlib import Path; from wbdc.competitions.wechat2022 import WeChat2022\n"
        "from wbdc.submit.pack.package import PackedMember, PackOptions, pack_submission\n"
        f"members = [PackedMember(n, Path(f), w) for n, f, w in {[(m.name, str(m.folder), m.weight) for m in members]!r}]\n"
        "facts = {'score': {'mean': 0.7123}, 'commit': 'abc1234'}\n"
        "options = PackOptions(contest=WeChat2022(), precision='fp32', facts=facts, "
        "training_commands=['wbdc --version > \"$WORK/version\"'])\n"
        "pack_submission(Path(sys.argv[1]), members, options)"
    )
    for member in members:
        os.utime(member.folder / "model.json", (1, 1))
    env = {
        **os.environ,
        "TZ": "Asia/Tokyo",
        "LANG": "de_DE.UTF-8",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
    }
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "second")], check=True, env=env, cwd=tmp_path
    )
    assert files(tmp_path / "second") == files(package)
    assert (tmp_path / "second/run.sh").stat().st_mode & 0o777 == 0o700


def test_a_checkout_and_an_installed_wheel_pack_equal_bytes(package, members, tmp_path):
    """pyproject puts the kits into the wheel as wbdc/kits; in a checkout they lie beside wbdc."""
    import wbdc

    home, site = Path(wbdc.__file__).parent, tmp_path / "site"
    shutil.copytree(home, site / "wbdc", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(home.parent / "kits", site / "wbdc" / "kits")
    code = (
        "import sys; from pathlib import Path; import wbdc; from wbdc.competitions.wechat2022 import WeChat2022\n"
        "from wbdc.submit.pack.package import PackedMember, PackOptions, pack_submission\n"
        "from wbdc.submit.pipeline import source_hash\n"
        "assert Path(wbdc.__file__).parents[1] == Path(sys.argv[2]), wbdc.__file__\n"
        f"members = [PackedMember(n, Path(f), w) for n, f, w in {[(m.name, str(m.folder), m.weight) for m in members]!r}]\n"
        "facts = {'score': {'mean': 0.7123}, 'commit': 'abc1234'}\n"
        "options = PackOptions(contest=WeChat2022(), precision='fp32', facts=facts, "
        "training_commands=['wbdc --version > \"$WORK/version\"'])\n"
        "pack_submission(Path(sys.argv[1]), members, options)\n"
        "print(source_hash())"
    )
    env = {**os.environ, "PYTHONPATH": str(site)}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path / "out"), str(site)],
        check=True,
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert files(tmp_path / "out") == files(package)
    assert (package / "source/wbdc/kits/dual_stream.toml").is_file()
    assert ran.stdout.strip() == pipeline.source_hash()


def test_the_readme_tells_members_scores_and_sizes(package, members):
    text = (package / "README.md").read_text()
    weights = file_sha256(members[0].folder / "model.safetensors")
    for told in (
        "| late-0a1b2c3d/fold-0 | 2 |",
        "score.mean: 0.7123",
        "commit: abc1234",
        "random weights",
        "| models/ |",
        weights,
    ):
        assert told in text, told
    assert "@" not in text


def test_an_earlier_package_is_replaced_and_anything_else_is_not(members, tmp_path):
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
    assert [p.name for p in tmp_path.iterdir()] == ["mine"], "nothing is left beside it"


def test_what_cannot_be_packed_is_refused_before_anything_is_written(members, tmp_path):
    bad = shutil.copytree(members[0].folder, tmp_path / "bad")
    for given, fault, says in (
        ([], UsageFault, "one or more"),
        ([members[0], members[0]], UsageFault, "each once"),
        ([members[0]._replace(name="../up")], UsageFault, "name"),
        ([members[0]._replace(weight=-1.0)], UsageFault, "weight"),
        ([members[0]._replace(weight=0.0)], UsageFault, "sum to 0"),
        ([members[0]._replace(folder=tmp_path)], UsageFault, "not finished"),
    ):
        with pytest.raises(fault, match=says):
            pack_submission(tmp_path / "out", given, OPTIONS)
    assert sealed_facts(bad)
    assert verify_seal(bad)
    (bad / "model.safetensors").write_bytes((bad / "model.safetensors").read_bytes()[:-1] + b"\x07")
    with pytest.raises(IntegrityBroken, match=r"model\.safetensors"):
        pack_submission(tmp_path / "out", [members[0]._replace(folder=bad)], OPTIONS)
    assert not (tmp_path / "out").exists()


def test_what_runs_from_a_package_knows_its_needs_without_being_installed(package, monkeypatch):
    """At the judge's only the requirements are installed: wbdc itself lies in `source`, and packs
    again from there.
    """
    import wbdc
    from wbdc.submit.pack import requirements as module

    monkeypatch.setattr(
        module.metadata,
        "requires",
        lambda name: (_ for _ in ()).throw(module.metadata.PackageNotFoundError(name)),
    )
    monkeypatch.setattr(wbdc, "__file__", str(package / "source" / "wbdc" / "__init__.py"))
    assert module.all_requirements() == (package / "source" / "requirements.txt").read_text()


def test_the_readme_says_what_the_precision_auto_means(tmp_path):
    from wbdc.submit.pack.readme import package_readme

    judge, gain = (
        {"data": "/data", "result": "/result.csv"},
        "+0.0123 [-0.0045, +0.0267], within noise",
    )
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
