"""Commands that train and serve nothing start fast: they import neither torch nor what imports it.

Which modules a process imported does not depend on the machine, as its seconds do.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import small
import toys
from safetensors.numpy import save_file

from wbdc.cli import doctor
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.files import publish_json, seal_folder
from wbdc.ensemble.saved_ensembles import publish_ensemble
from wbdc.prepare.build import prepare_data
from wbdc.serve.blend_file import BLEND_FILE, Blend, BlendMember
from wbdc.serve.member_files import MODEL_FILE, WEIGHTS_FILE
from wbdc.submit.check.manifest import write_manifest
from wbdc.train.kit import open_kit
from wbdc.train.kit_files import KIT_FILE, find_kit_file, kit_names, read_kit
from wbdc.train.runs import OOF_FILE, Run, RunFacts, publish_run, write_oof
from wbdc.train.session import open_session

TABLES = {"polars", "numpy"}
SLOW_MODULES = ("torch", "transformers", "open_clip", "timm", "sklearn", "scipy")
WATCHED_MODULES = (*SLOW_MODULES, *TABLES, "tokenizers", "rich")
# runs commands one after the other, and reports the exit code and the imports after each
SCRIPT = f"""
import json, sys
from wbdc.__main__ import run
report, *lines = sys.argv[1:]
results = []
for line in lines:
    sys.argv = ["wbdc", *json.loads(line)]
    try:
        run()
    except SystemExit as ended:
        results.append([ended.code, [name for name in {WATCHED_MODULES!r} if name in sys.modules]])
with open(report, "w") as file:
    json.dump(results, file)
"""
# several commands in one process, none of which may import a slow module
PLANS_SCRIPT = f"""
import sys
from wbdc.cli import main
for line in sys.argv[1:]:
    main(line.split(), standalone_mode=False)
    imported = [name for name in {SLOW_MODULES!r} if name in sys.modules]
    assert not imported, f"{{line}} imports {{imported}}"
"""
RUN = "toy-0a1b2c3d"
CLASSES = ["0000", "0001", "0100"]


def imports_after(
    tmp_path: Path, *commands: Sequence[object], codes: Sequence[int] = ()
) -> list[set[str]]:
    """Run commands in one new process; return the watched modules that it has imported after each.

    codes: the exit codes of the commands; empty: all are 0.
    """
    report = tmp_path / "imported.json"
    lines = [json.dumps([str(word) for word in words]) for words in commands]
    process = small.python(SCRIPT, report, *lines, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    results = json.loads(report.read_text())
    assert [code for code, _ in results] == (list(codes) or [0] * len(lines)), process.stderr
    return [set(names) for _, names in results]


def test_lists_and_refusals_need_files_alone(tmp_path):
    """Text needs rich in addition."""
    (tmp_path / "models").mkdir()
    as_json = ["--version", "kits --json", "recipe list --json"]
    as_json.append("recipe show wbdc2022/rank8 --json")
    as_text = ["kits", "recipe list"]
    refused = ["kits dual_steam", "weights convert models", "doctor --out profile.json"]
    lines = [*as_json, *as_text, *refused]
    imports = imports_after(tmp_path, *map(str.split, lines), codes=[0] * 6 + [2] * 3)
    assert dict(zip(lines, imports, strict=True)) == (
        dict.fromkeys(as_json, set()) | dict.fromkeys([*as_text, *refused], {"rich"})
    )


def test_every_packaged_kit_says_what_it_is_about_in_its_file():
    assert all(read_kit(find_kit_file(name))["about"].endswith(".") for name in kit_names())


def test_a_kit_is_resolved_without_the_libraries_of_its_networks(tmp_path):
    kits = ("dual_stream", "wbdc2022/rank8/lxmert")
    changes = ("--set", 'fusion={use="lxmert", layers=2}', "--set", "train.warmup=0.2")
    changed = [("kits", kit, "--json", *changes) for kit in kits]
    tiny = [("kits", kit, "--tiny") for kit in kits]
    imports = imports_after(tmp_path, *changed, *tiny)
    assert imports == [set()] * 2 + [{"rich"}] * 2


def test_an_architecture_that_was_changed_is_built_to_check_it():
    change = ("--set", "trunk.architecture.hidden_size=7")
    result = toys.wbdc("kits", "dual_stream", "--tiny", *change)
    assert result.exit_code == 2
    assert "trunk.architecture cannot be built: The hidden size (7)" in result.stderr


def test_a_contest_is_described_without_torch(tmp_path):
    rows = "".join(f"{i},word {i},{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "clips.csv").write_text(f"id,title,label\n{rows}")
    (modules,) = imports_after(tmp_path, ("init", "clips.csv", "--into", "out"))
    assert "torch" not in modules


def test_the_layouts_of_weights_are_found_without_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    one = np.zeros(1, np.float32)
    layouts = {
        "bert": {"embeddings.word_embeddings.weight": one},
        "clip": {"vision_model.embeddings.class_embedding": one},
        "gpt": {"wte.weight": one},
    }
    for name, tensors in layouts.items():
        (tmp_path / "models" / name).mkdir(parents=True)
        save_file(tensors, tmp_path / "models" / name / "model.safetensors")
        publish_json(tmp_path / "models" / name / "config.json", {"model_type": name})
    (modules,) = imports_after(tmp_path, ("weights", "list", "--weights", "models"))
    assert modules == {"numpy", "rich"}


def test_data_are_checked_and_prepared_without_torch(tmp_path):
    data = small.root(tmp_path / "data")
    options = ("--dry-run", "--check-only")
    imports = imports_after(tmp_path, *(("prepare", "--data", data, option) for option in options))
    assert not set.union(*imports) & set(SLOW_MODULES), imports


def write_run(work: Path, data: str) -> Run:
    """Write a run with the predictions of one fold and without a model. data: their hash."""
    facts = RunFacts("train", "toy", data, 0, None, None, CLASSES, "wechat2022")
    run = Run(work / "runs" / RUN, facts)
    fold = run.fold("0")
    fold.mkdir(parents=True)
    publish_run(run)
    ids = [f"{i:020}" for i in range(30)]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 30).astype(np.float32)
    serve = {"batch": 8, "precision": "fp32"}
    publish_json(fold / MODEL_FILE, {"classes": CLASSES, "serve": serve})
    write_oof(fold / OOF_FILE, ids, "0", [CLASSES[i % 3] for i in range(30)], probabilities)
    seal_folder(fold, {})
    return run


def test_runs_are_listed_and_compared_without_torch(tmp_path):
    write_run(tmp_path / "work", "d0")
    commands = [("oof", RUN, "--csv"), ("runs",), ("compare", RUN, RUN)]
    imports = imports_after(tmp_path, *commands)
    assert imports == [TABLES, {*TABLES, "rich"}, {*TABLES, "rich"}]


def test_runs_are_listed_again_and_removed_without_tables(tmp_path):
    """The scores of an earlier listing are in the cache."""
    write_run(tmp_path / "work", "d0")
    toys.run_json("runs", "--work", tmp_path / "work")
    commands = [("runs", "--json"), ("runs", "show", RUN, "--json"), ("runs", "gc", "--json")]
    assert imports_after(tmp_path, *commands) == [set()] * 3


@pytest.fixture
def package(tmp_path):
    """A packed folder without code. Its weights are no network, and nothing loads them."""
    folder = tmp_path / "package"
    member = folder / "models" / RUN / "fold-0"
    member.mkdir(parents=True)
    save_file({"x": np.zeros(1, np.float32)}, member / WEIGHTS_FILE)
    publish_json(member / MODEL_FILE, {"classes": ["0000"]})
    publish_json(member / KIT_FILE, {"train": {"epochs": 3}})
    facts = {"competition": "wechat2022", "precision": "fp32", "members": [f"{RUN}/fold-0"]}
    members = [{"folder": f"models/{RUN}/fold-0", "weight": 1.0}]
    publish_json(folder / BLEND_FILE, facts | {"members": members})
    write_manifest(folder, facts)
    return folder


def test_packages_are_verified_and_compared_without_torch(package, tmp_path):
    other = shutil.copytree(package, tmp_path / "other")
    publish_json(other / "models" / RUN / "fold-0" / KIT_FILE, {"train": {"epochs": 5}})
    write_manifest(
        other, {"competition": "wechat2022", "precision": "fp32", "members": [f"{RUN}/fold-0"]}
    )
    verified, compared = imports_after(tmp_path, ("verify", package), ("diff", package, other))
    assert not verified & {*SLOW_MODULES, "polars"}
    assert not compared & set(SLOW_MODULES)


def test_ensembles_and_submissions_are_planned_without_torch(tmp_path):
    contest = WeChat2022()
    work = tmp_path / "work"
    prepared, _ = prepare_data(small.root(tmp_path / "data"), work, contest, folds=2, threads=1)
    run = write_run(work, prepared.hash)
    member = BlendMember(str(run.fold("0").relative_to(work)), 1.0, run=run.name, fold="0")
    blend = Blend("wechat2022", "fp32", (member,), data=prepared.hash)
    publish_ensemble(work / "ensembles" / "ensemble", {}, blend, contest, {})
    imports = imports_after(tmp_path, ("ensemble", "--dry-run"), ("submit", "--dry-run"))
    assert not set.union(*imports) & set(SLOW_MODULES), imports


@pytest.fixture
def work(tmp_path):
    """A work folder with prepared data and a run of one fold."""
    data = small.root(tmp_path / "data")
    prepared, _ = prepare_data(data, tmp_path / "work", WeChat2022(), folds=2, threads=1)
    write_run(tmp_path / "work", prepared.hash)
    return tmp_path / "work"


@pytest.mark.usefixtures("work")
def test_trainings_and_what_follows_them_are_planned_without_torch(tmp_path):
    (tmp_path / "space.toml").write_text("[train]\nepochs = [1, 2]\n")
    tiny = "--kit dual_stream --tiny --device cpu --dry-run"
    plans = [
        f"train {tiny} --fold each --json",
        f"train {tiny} --fold 0 --set train.epochs=3 --without text",
        f"pretrain {tiny}",
        "train --kit ngrams --fold each --dry-run --device cpu",
        f"sweep {tiny} --space space.toml",
        f"pseudo --from {RUN} --split labeled --dry-run",
        f"distill {tiny} --from {RUN} --fold 0",
        f"submit --run {RUN} --dry-run",
        "submit --dry-run",  # of the only run
        "recipe run wbdc2022/rank1 --dry-run --tiny --device cpu",
    ]
    process = small.python(PLANS_SCRIPT, *plans, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert '"run": "dual_stream-' in process.stdout
    assert "wbdc train --kit dual_stream --fold 0" in process.stdout
    assert not (tmp_path / "submissions").exists()


def test_a_plan_is_that_of_the_training(work):
    options = {"fold": "each", "jobs": 2, "device": "cpu"}
    kits = [open_kit("dual_stream", tiny=True, trusts_packaged=trusts) for trusts in (False, True)]
    trained = open_session("train", kits[0], work, **options)
    planned = open_session("train", kits[1], work, **options, computes=False)
    assert planned.run == trained.run
    assert (planned.folds, planned.jobs) == (trained.folds, trained.jobs)
    assert planned.hardware.threads == trained.hardware.threads
    assert str(planned.hardware.device) == str(trained.hardware.device)


@pytest.mark.parametrize("words", [(), ("--json",), ("--probe", "--out", "profile.json")])
def test_doctor_reports_what_it_can_where_torch_cannot_be_imported(words, tmp_path):
    broken = tmp_path / "broken" / "torch.py"
    broken.parent.mkdir()
    broken.write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    script = f"""
import sys
sys.path.insert(0, {str(broken.parent)!r})
from wbdc.__main__ import run
run()
"""
    process = small.python(script, "doctor", *words, cwd=tmp_path)
    assert process.returncode == 7
    assert "torch cannot be imported: libcudart.so.12" in process.stderr
    assert "simplejpeg" in process.stdout
    assert "precision" not in process.stdout
    assert not (tmp_path / "profile.json").exists()


def test_a_package_that_is_missing_is_reported(monkeypatch):
    monkeypatch.setattr(doctor, "REPORTED_PACKAGES", ("numpy", "no-such-package"))
    versions = doctor.package_versions()
    assert versions["no-such-package"] == "not installed"
    assert versions["numpy"] == np.__version__
