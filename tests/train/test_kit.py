"""Kits: every packaged one opens, and every mistake is an error with the nearest known name."""

import re
from pathlib import Path

import pytest
import torch
import toys

from wbdc.cli.kits import describe_kit
from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.files import seal_folder
from wbdc.data.loader import collate
from wbdc.prepare.dataset import open_prepared
from wbdc.serve.members import load_member
from wbdc.submit.pack.package import _add_kit
from wbdc.train import objectives
from wbdc.train.evaluated_weights import copy_weights
from wbdc.train.export import export_fold
from wbdc.train.initial_model import build_initial_model
from wbdc.train.kit import open_kit
from wbdc.train.kit_files import PACKAGED_KIT_FOLDERS, _parse_change, kit_names
from wbdc.train.session import parse_folds
from wbdc.train.stage_plan import plan_stage

KITS = sorted(p.stem for p in PACKAGED_KIT_FOLDERS[0].glob("*.toml"))
every_kit = pytest.mark.parametrize("name", KITS)
# kits that train a network; tests/train/test_estimators.py has the others
NETWORKS = [name for name in KITS if not open_kit(name).has_estimator]
every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@every_network
@pytest.mark.parametrize("tiny", [False, True])
def test_every_kit_opens_and_can_be_described(name, tiny):
    kit = open_kit(name, tiny=tiny)
    lines = [line for line, _ in describe_kit(kit)]
    assert kit.tables["about"] in lines[0]
    assert any("(default)" in line for line in lines)
    assert ("architecture" in kit.tables["trunk"]) == tiny
    assert kit.stage("train").epochs > 0
    assert kit.stage("pretrain").objective


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("name", [name for name in KITS if name != "ngrams"])
def test_every_kit_with_frames_resizes_fast(name, tiny):
    tables = open_kit(name, tiny=tiny).tables
    reader = tables["vision"] if "vision" in tables else tables["estimator"]
    assert reader.get("tower", reader)["resize"] == "fast"


@every_kit
def test_the_header_of_every_kit_states_its_command(name):
    head = (PACKAGED_KIT_FOLDERS[0] / f"{name}.toml").read_text().splitlines()[:4]
    assert head[0].startswith("# ")
    assert any(f"wbdc train --kit {name} --fold" in line for line in head)


@every_network
def test_every_tiny_kit_builds_a_model_that_predicts(name, ready):
    initial = build_initial_model(open_kit(name, tiny=True), open_prepared(ready), 0)
    settings = initial.input_spec.image_settings
    text = initial.input_spec.text(
        [{"title": "今天天气", "asr": "好", "ocr": ""}, {"title": "", "asr": "", "ocr": ""}]
    )
    frames = torch.randint(0, 256, (2, 3, settings.size, settings.size), dtype=torch.uint8).numpy()
    assert initial.model.eval().logits(collate("ab", text, [frames, frames[:0]])).isfinite().all()
    second = build_initial_model(
        open_kit(name, tiny=True), open_prepared(ready), 0
    ).model.state_dict()
    assert all(torch.equal(t, second[n]) for n, t in initial.model.state_dict().items()), (
        "random weights are a function of the seed"
    )


@every_network
def test_missing_pretrained_weights_are_explained(name, ready, tmp_path, monkeypatch):
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    result = toys.wbdc("train", "--kit", name, "--fold", 0, "--work", ready)
    assert result.exit_code == 7
    assert "not on this machine: put" in result.stderr
    assert "--tiny" in result.stderr


WRONG = {
    "unknown table": ("[trian]\nepochs = 1", "has no setting 'trian'; did you mean 'train'"),
    "unknown setting": (
        "[train]\nepoch = 3",
        "train has no setting 'epoch'; did you mean 'epochs'",
    ),
    "unknown plug": (
        '[fusion]\nuse = "dual_steam"',
        "no fusion called 'dual_steam'; did you mean 'dual_stream'",
    ),
    "unknown setting of a plug": (
        "[fusion]\nlayer = 3",
        "fusion 'dual_stream' has no setting 'layer'; did you mean 'layers'",
    ),
    "unknown setting of a tower": (
        "[vision]\nframe = 3",
        "vision 'clip' has no setting 'frame'; did you mean 'frames'",
    ),
    "unknown objective": (
        '[train]\nobjective = [{ use = "clasify" }]',
        "no objective called 'clasify'; did you mean 'classify'",
    ),
    "unknown setting of an objective": (
        '[pretrain]\nobjective = [{ use = "mask_words", shar = 0.4 }]',
        "did you mean 'share'",
    ),
    "unknown trick": (
        '[train]\ntrick = [{ use = "fmg" }]',
        "no trick called 'fmg'; did you mean 'fgm'",
    ),
    "a trick without a name": (
        "[train]\ntrick = [{ epsilon = 1.0 }]",
        "trick needs `use = ...`; one of:",
    ),
    "unknown competition": ('competition = "wechat2021"', "did you mean 'wechat2022'"),
    "unknown text field": (
        "[text]\nfields = { titel = 9 }",
        "no text field 'titel'; did you mean 'title'",
    ),
    "unknown setting of serving": (
        "[serve]\nbach = 3",
        "serve has no setting 'bach'; did you mean 'batch'",
    ),
    "missing setting": ("", "needs a value for 'epochs'"),
    "budgets larger than the length": ("[text]\nlength = 20", "request 28 tokens"),
    "a text for a number": ('[train]\nepochs = "3"', "epochs = '3' is not of the type int"),
    "true for a number": ("[train]\nepochs = true", "epochs = True is not of the type int"),
    "a number for true": ("[vision]\nfrozen = 0", "frozen = 0 is not of the type bool"),
    "a text for true": ('[vision]\nfrozen = "False"', "frozen = 'False' is not of the type bool"),
    "no batches": ("[train]\nbatch = 0", "train.batch = 0; it must be between 1 and"),
    "no epochs": ("[train]\nepochs = 0", "train.epochs = 0; it must be between 1 and"),
    "a part that is no text": (
        "[train]\nlearning_rate = { fusion.trunk = 1e-5 }",
        "rate of 'fusion' = .* in quotes",
    ),
    "a text for a rate": (
        '[train]\nlearning_rate = { rest = "x" }',
        "rate of 'rest' = 'x' is not a number",
    ),
    "a rate that is no number": (
        "[train]\nlearning_rate = { rest = nan }",
        "rate of 'rest' = nan; a rate is a finite number of 0 or more",
    ),
    "a rate without end": ("[train]\nlearning_rate = { rest = inf }", "rate of 'rest' = inf"),
    "a negative rate": (
        "[pretrain]\nlearning_rate = { vision = -1e-3 }",
        "pretrain.learning_rate of 'vision' = -0.001",
    ),
    "a negative decay": (
        "[train]\nweight_decay = -0.1",
        "train.weight_decay = -0.1; it must be between 0",
    ),
    "a warm-up longer than the training": ("[train]\nwarmup = 1.5", "train.warmup = 1.5"),
    "no gradient": (
        "[train]\nmax_grad_norm = 0",
        "train.max_grad_norm = 0; it must be above 0",
    ),
    "a setting of a plug that is no number": (
        '[train]\ntrick = [{ use = "ema", decay = nan }]',
        "trick 'ema': decay = nan is not a number",
    ),
    "batches beyond counting": (
        "[train]\nbatch = 99999999999999999999",
        "it must be between 1 and 1,000,000,000",
    ),
    "no length of text": ("[text]\nlength = 0", "text.length = 0 is too short"),
    "no words": ("[text]\nvocabulary = { max_size = 3 }", "text.vocabulary: max_size = 3"),
    "a negative number of words": (
        "[text]\nwords = -1",
        "text.words = -1; it must be between 0 and 100,000",
    ),
    "more text than positions": (
        "[text]\nlength = 65",
        "text.length = 65 exceeds the trunk's 64 positions",
    ),
    "no frames": ("[vision]\nframes = 0", "vision.frames = 0; it must be between 1 and 32"),
    "negative frames": ("[vision]\nframes = -1", "vision.frames = -1"),
    "too many frames": ("[vision]\nframes = 33", "vision.frames = 33"),
    "heads that do not divide the width": (
        "[trunk.architecture]\nhidden_size = 7",
        "trunk.architecture cannot be built: .*multiple",
    ),
    "a width that is a text": (
        '[trunk.architecture]\nhidden_size = "wide"',
        "trunk.architecture cannot be built: ",
    ),
    "an unknown trunk": (
        '[trunk.architecture]\nmodel_type = "brt"',
        "text models of the type 'brt' are not supported",
    ),
    "heads of the fusion": ("[fusion]\nheads = 3", "fusion.heads = 3 does not divide"),
    "a tail that is no field": ("[text]\ntail = [3]", "has no text field 3"),
    "nothing to learn": ("[train]\nobjective = []", "train.objective is empty"),
    "a number for a plug": ("[train]\ntrick = [3]", "train.trick takes tables like .* not 3"),
    "a number for a table": ("serve = 3", "serve = 3 is not a table"),
    "unknown precision": (
        '[train]\nprecision = "fp61"',
        "no precision called 'fp61'; did you mean 'fp16'",
    ),
    "an extension of an extension": (None, "only one level is supported"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_trap_04_unknown_unused_and_mistyped_settings_are_refused(fault, here, ready):
    change, message = WRONG[fault]
    (here / "parent.toml").write_text(
        toys.KIT.replace("epochs = 4\n", "") if fault == "missing setting" else toys.KIT
    )
    (here / "child.toml").write_text('extends = "parent"\n' + (change or ""))
    (here / "grandchild.toml").write_text('extends = "child"\n')
    with pytest.raises(UsageFault, match=message):
        build_initial_model(
            open_kit("grandchild.toml" if change is None else "child.toml"), open_prepared(ready), 0
        )


@pytest.mark.parametrize("use", ["tam", "tin", "tpn"])
def test_random_layers_in_a_tower_cannot_be_frozen(kit, use):
    table = 'vision={use="%s", frozen=%s, tower={use="timm", model="resnet50", frozen=true}}'
    open_kit(str(kit), changes=(table % (use, "false"),))
    with pytest.raises(UsageFault, match="keep its temporal modules at random weights; freeze"):
        open_kit(str(kit), changes=(table % (use, "true"),))
    open_kit(str(kit), changes=(table % ("tsm", "true"),))  # a shift has no weights
    open_kit(str(kit), changes=(table % (use, 'true, weights="published"'),))


@pytest.mark.parametrize(
    "change",
    [
        "train.learning_rate.rest=nan",
        "text.length=0",
        "vision.frames=0",
        "trunk.architecture.hidden_size=7",
    ],
)
def test_impossible_numbers_are_refused_by_a_dry_run_and_by_kits(kit, ready, change):
    for words in (
        ["kits", kit],
        ["train", "--kit", kit, "--fold", 0, "--work", ready, "--dry-run"],
    ):
        result = toys.wbdc(*words, "--set", change)
        assert result.exit_code == 2, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr


TORN = {
    "not UTF-8": ("torn.toml", b'about = "\xff"', "torn.toml is not UTF-8 text: byte 9 is 0xff"),
    "a number of 5,000 digits": ("torn.toml", b"a = " + b"9" * 5000, "torn.toml: .*digits"),
    "nested": (
        "torn.toml",
        b"a = " + b"[" * 60 + b"]" * 60,
        "torn.toml nests tables more than 20 deep",
    ),
    "nested beyond the parser": (
        "torn.toml",
        b"a = " + b"[" * 9999 + b"]" * 9999,
        "torn.toml: .*recursion",
    ),
    "nested in JSON": ("torn.json", b"[" * 99999 + b"]" * 99999, "torn.json: .*recursion"),
    "a list": ("torn.json", b"[]", "torn.json holds list, not the tables of a kit"),
    "a number to extend": ("torn.toml", b"extends = 5", "extends = 5 is not the name of a kit"),
    "a number for tiny": ("torn.toml", b"tiny = 5", "tiny = 5 is not a table"),
}


@pytest.mark.parametrize("fault", TORN)
def test_an_unreadable_kit_is_exit_2_and_one_sentence(fault, here):
    name, content, message = TORN[fault]
    (here / name).write_bytes(content)
    result = toys.wbdc("kits", name)
    assert result.exit_code == 2
    assert re.search(message, result.stderr)
    assert len(result.stderr.strip().splitlines()) == 1
    assert not isinstance(result.exception, RecursionError)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000 + "]" * 5000, "[" * 50 + "]" * 50])
def test_an_impossible_value_of_set_is_exit_2_and_a_short_message(kit, value):
    result = toys.wbdc("kits", kit, "--set", f"train.epochs={value}")
    assert result.exit_code == 2
    assert len(result.stderr) < 400


@pytest.mark.parametrize("fold", ["9" * 5000, "3", "-1", "x", "0,,1", "²"])
def test_an_unknown_fold_is_exit_2_and_a_short_message(kit, ready, fold):
    result = toys.wbdc("train", "--kit", kit, "--work", ready, "--fold", fold, "--dry-run")
    assert result.exit_code == 2
    assert "the data has folds 0 to 2" in result.stderr
    assert len(result.stderr) < 400
    assert parse_folds("00,2,02,all", 3) == ["0", "2", "all"]


def test_learning_rates_are_replaced_so_that_another_tower_may_lack_a_part(here, kit):
    (here / "toy.toml").write_text(kit.read_text())
    rates = open_kit("toy.toml").tables["train"]["learning_rate"]
    assert "vision" in rates
    (here / "features.toml").write_text(
        'extends = "toy"\n[vision]\nuse = "features"\n[train.learning_rate]\nrest = 2e-3\n'
    )
    assert open_kit("features.toml").tables["train"]["learning_rate"] == {"rest": 2e-3}
    for change, expected in {
        "train.learning_rate={rest=1e-4}": {"rest": 1e-4},
        "train.learning_rate.rest=1e-4": {**rates, "rest": 1e-4},
    }.items():
        tables = open_kit("toy.toml", changes=(change,)).tables
        assert tables["train"]["learning_rate"] == expected


def test_text_fields_are_replaced_and_not_merged(here, kit):
    (here / "toy.toml").write_text(kit.read_text() + "[tiny.text]\nfields = { asr = 5 }\n")
    (here / "titles.toml").write_text('extends = "toy"\n[text]\nfields = { title = 20 }')
    assert open_kit("titles.toml").tables["text"]["fields"] == {"title": 20}
    assert open_kit("titles.toml", tiny=True).tables["text"]["fields"] == {"asr": 5}
    assert open_kit("toy.toml", changes=("text.fields={ocr=3}",)).tables["text"]["fields"] == {
        "ocr": 3
    }
    whole_table = ("text={ fields={ ocr=3 } }",)
    assert open_kit("toy.toml", changes=whole_table).tables["text"]["fields"] == {"ocr": 3}
    assert open_kit("toy.toml", changes=("text.fields.ocr=3",)).tables["text"]["fields"] == {
        "title": 14,
        "asr": 8,
        "ocr": 3,
    }
    assert open_kit("toy.toml", changes=("text.length=40",)).tables["text"]["vocabulary"] == {
        "min_count": 2,
        "max_size": 400,
    }


def test_a_kit_that_reads_fields_that_the_data_lack_is_exit_2(kit, ready, monkeypatch):
    from wbdc.competitions.wechat2022 import WeChat2022

    monkeypatch.setattr(WeChat2022, "fields", ("title", "asr", "ocr", "tags"))
    words = [
        "train",
        "--kit",
        kit,
        "--fold",
        0,
        "--work",
        ready,
        "--dry-run",
        "--set",
        "text.fields={tags = 4}",
    ]
    result = toys.wbdc(*words)
    assert result.exit_code == 2
    assert (
        "reads the text field 'tags', which the prepared data of wechat2022 does not have"
        in result.stderr
    )


def test_a_kit_extends_another_and_changes_only_what_it_names(here, kit):
    (here / "toy.toml").write_text(kit.read_text())
    (here / "late.toml").write_text(
        'extends = "toy"\n[train]\nepochs = 9\n[fusion]\nuse = "single_stream"'
    )
    parent, child = open_kit("toy.toml"), open_kit("late.toml")
    assert child.stage("train").epochs == 9
    assert child.stage("train").batch == parent.stage("train").batch
    assert child.tables["fusion"] == {"use": "single_stream"}, (
        "settings of another plug are not inherited"
    )
    assert child.tables["vision"] == parent.tables["vision"]


def test_a_kit_without_a_pooling_takes_the_mean(here, kit):
    (here / "toy.toml").write_text(kit.read_text())
    assert open_kit("toy.toml").tables["pooling"] == {"use": "mean"}
    changed = open_kit("toy.toml", changes=('pooling.use="attention"', "pooling.hidden=4"))
    assert changed.tables["pooling"] == {"use": "attention", "hidden": 4}
    assert changed.saved_tables()["pooling"] == changed.tables["pooling"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('pooling.use="men"', "no pooling called 'men'; did you mean 'mean'"),
        ("pooling.hidden=4", "pooling 'mean' has no setting 'hidden'"),
        ('pooling="mean"', "pooling = 'mean' is not a table"),
        ('pooling.use="./gone.py"', "no pooling at .*gone.py; put the file beside the kit"),
        ('fusion.pooling="mean"', "fusion 'dual_stream' has no setting 'pooling'"),
        (
            'pooling={use="attention",hidden=0}',
            "pooling.hidden = 0; it must be 1 or more",
        ),
    ],
)
def test_a_pooling_that_does_not_exist_is_refused(kit, change, message):
    with pytest.raises(UsageFault, match=message):
        open_kit(str(kit), changes=(change,))


POOLING = """
from wbdc.nets.pooling import Pooling

class LastFrame(Pooling):
    '''The last token of the frames.'''
    def forward(self, text, frames):
        return frames.x[:, -1]
"""


def test_a_pooling_beside_the_kit_is_saved_with_a_fold_and_built_from_it(here, kit, ready):
    (here / "last_frame.py").write_text(POOLING)
    (here / "mine.toml").write_text(kit.read_text() + '[pooling]\nuse = "./last_frame.py"\n')
    opened_kit = open_kit("mine.toml")
    assert list(opened_kit.plugs()) == ["last_frame.py"]
    plan = plan_stage(here / "work", "train", opened_kit, open_prepared(ready))
    fold = plan.run.fold("all")
    initial = plan.build_model()
    export_fold(fold, initial, plan, copy_weights(initial.model))
    assert type(load_member(fold).model.fusion.pooling).__name__ == "LastFrame"


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("train.epochs=7", 7),
        ("train.max_grad_norm=0.5", 0.5),
        ('train.precision="bf16"', "bf16"),
        ("train.warmup=0", 0),
    ],
)
def test_set_overrides_one_value(kit, change, value):
    table, name = change.split("=")[0].split(".")
    assert open_kit(str(kit), changes=(change,)).tables[table][name] == value


@pytest.mark.parametrize(("value", "is_frozen"), [("true", True), ("false", False)])
def test_trap_14_false_is_not_read_as_true(kit, value, is_frozen):
    """`type=bool` of argparse reads "False" as True."""
    frozen = open_kit(str(kit), changes=(f"vision.frozen={value}",)).tables["vision"]["frozen"]
    assert frozen is is_frozen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.epoch=3", "did you mean 'epochs'"),
        ("epochs=3", "no setting 'epochs'"),
        ("train.epochs", "write TABLE.KEY=VALUE"),
        ("a=b=c", "write TABLE"),
    ],
)
def test_set_refuses_unknown_settings(kit, change, message):
    with pytest.raises(UsageFault, match=message):
        open_kit(str(kit), changes=(change,))


def test_kits_in_the_current_folder_come_first_and_unknown_names_get_a_hint(here, kit):
    with pytest.raises(UsageFault, match="no kit called 'dual_steam'; did you mean 'dual_stream'"):
        open_kit("dual_steam")
    with pytest.raises(UsageFault, match="no kit at nowhere.toml"):
        open_kit("nowhere.toml")
    Path("kits").mkdir()
    Path("kits/dual_stream.toml").write_text(kit.read_text())
    Path("kits/mine.toml").write_text(kit.read_text())
    assert set(kit_names()) == {*KITS, "mine"}
    assert open_kit("dual_stream").tables["about"] == "A toy."
    Path("kits/torn.toml").write_text("[train\n")
    with pytest.raises(UsageFault, match="torn.toml: "):
        open_kit("torn")


LATE = """
'''Late fusion.'''
from wbdc.core.tokens import Fused
from wbdc.nets.fusion import Fusion

class Late(Fusion):
    '''The sum of two means.'''
    def forward(self, text, frames):
        text = self.trunk(text)
        return Fused(text, frames, text.mean() + frames.mean())
"""


def test_a_plug_beside_the_kit_is_found_checked_and_shipped(here, kit, ready):
    (here / "mine.toml").write_text(
        kit.read_text().replace('use = "dual_stream"\nheads = 2', 'use = "./late.py"')
    )
    with pytest.raises(UsageFault, match="no fusion at .*late.py; put the file beside the kit"):
        open_kit("mine.toml")
    (here / "late.py").write_text(LATE)
    opened_kit = open_kit("mine.toml")
    assert list(opened_kit.plugs()) == ["late.py"]
    assert (
        type(build_initial_model(opened_kit, open_prepared(ready), 0).model.fusion).__name__
        == "Late"
    )
    (here / "late.py").write_text(LATE + "class Later(Fusion): pass\n")
    with pytest.raises(UsageFault, match="must define exactly one Fusion, found 2"):
        open_kit("mine.toml")


SAMPLER = """
from wbdc.train.samplers import Sampler
class Ordered(Sampler):
    'Every video in the order of the data.'
    def draw(self, generator):
        return list(range(len(self)))
"""
SCHEDULE = """
from wbdc.train.schedules import Schedule
class Half(Schedule):
    'Half of the rates.'
    def factor(self, step, steps):
        return 0.5
"""


def test_samplers_and_schedules_beside_a_kit_are_saved_with_it(here, kit, ready):
    (here / "x").mkdir()
    (here / "mine.toml").write_text(kit.read_text())
    (here / "x" / "ordered.py").write_text(SAMPLER)
    (here / "x" / "half.py").write_text(SCHEDULE)
    changes = (
        'train.sampler={ use = "./x/ordered.py" }',
        'pretrain.schedule={ use = "./x/half.py" }',
    )
    opened = open_kit("mine.toml", changes=changes)
    assert sorted(opened.plugs()) == ["half.py", "ordered.py"]
    assert opened.saved_tables()["train"]["sampler"] == {"use": "./ordered.py"}
    assert opened.saved_tables()["pretrain"]["schedule"] == {"use": "./half.py"}
    assert "ordered.py" in [path.name for path in opened.files("train")]
    assert "half.py" in [path.name for path in opened.files("pretrain")]

    names = [plan_stage(here, "train", opened, open_prepared(ready)).run.name]
    (here / "x" / "ordered.py").write_text(SAMPLER + "\n")
    names.append(plan_stage(here, "train", opened, open_prepared(ready)).run.name)
    assert names[0] != names[1], "another sampler is another run"
    text = "\n".join(line for line, _ in describe_kit(opened))
    assert "sampler ./x/ordered.py: Every video in the order of the data." in text
    assert "schedule ./x/half.py: Half of the rates." in text


def test_kits_shows_a_plug_beside_a_kit_and_refuses_a_broken_one(here, kit):
    (here / "mine.toml").write_text(
        kit.read_text().replace('use = "dual_stream"\nheads = 2', 'use = "./late.py"')
    )
    (here / "late.py").write_text(LATE)
    result = toys.wbdc("kits", "./mine.toml")
    assert result.exit_code == 0, result.exception
    assert "fusion ./late.py: Late fusion." in result.stdout
    (here / "late.py").write_text(LATE.partition("'''Late fusion.'''")[2])
    assert "fusion ./late.py: The sum of two means." in toys.wbdc("kits", "./mine.toml").stdout
    for content, message in (
        ("class Late(:\n", "late.py cannot be loaded: line 1: SyntaxError"),
        ("\nimport nowhere\n", "line 2: ModuleNotFoundError"),
        ("x = 1 / 0", "line 1: ZeroDivisionError"),
    ):
        (here / "late.py").write_text(content)
        result = toys.wbdc("kits", "./mine.toml")
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_a_plug_set_on_a_kit_in_another_folder_is_found_in_the_current_one(here, kit):
    change = 'fusion={ use = "./late.py" }'
    with pytest.raises(UsageFault, match="no fusion at .*late.py"):
        open_kit(str(kit), changes=(change,))
    (here / "late.py").write_text(LATE)
    opened_kit = open_kit(str(kit), changes=(change,))
    assert [p.resolve() for p in opened_kit.plugs().values()] == [here / "late.py"]
    (here / "kits").mkdir()
    (here / "kits" / "mine.toml").write_text(kit.read_text())
    (here / "kits" / "late.py").write_text(LATE)
    assert [
        p.resolve() for p in open_kit("kits/mine.toml", changes=(change,)).plugs().values()
    ] == [here / "kits" / "late.py"], "beside the kit first"


LOSS = """
from wbdc.train.objectives import Objective

class Loss(Objective):
    '''{size} times nothing.'''
    size = {size}
    def loss(self, model, fused, batch, original):
        return self.size * model.head(fused.pooled).sum()
"""
TWO_LOSSES = 'objective = [{ use = "./a/loss.py" }, { use = "./b/loss.py" }]'


@pytest.fixture
def two_losses(here, kit):
    """A kit with two plug files of one name, and one file outside its folder."""
    (here / "x").mkdir()
    text = kit.read_text().replace('objective = [{ use = "classify" }]', TWO_LOSSES)
    (here / "x" / "mine.toml").write_text(
        text.replace('use = "dual_stream"\nheads = 2', 'use = "../late.py"')
    )
    (here / "late.py").write_text(LATE)
    for folder, size in (("a", 1), ("b", 2)):
        (here / "x" / folder).mkdir()
        (here / "x" / folder / "loss.py").write_text(LOSS.format(size=size))
    return open_kit("x/mine.toml")


def sizes(kit):
    return [
        plug.find_plug(objectives, t["use"], kit.folder).size for t in kit.stage("train").objective
    ]


def test_plug_files_with_the_same_name_are_kept_apart(two_losses, here, ready):
    prepared = open_prepared(ready)
    plan = plan_stage(here / "work", "train", two_losses, prepared)
    fold = plan.run.fold("all")
    initial = plan.build_model()
    export_fold(fold, initial, plan, copy_weights(initial.model))
    assert type(load_member(fold).model.fusion).__name__ == "Late"

    seal_folder(fold, {})
    _add_kit(here / "package" / "mine.json", fold)
    for saved in (open_kit(str(fold / "kit.json")), open_kit("package/mine.json")):
        assert sizes(saved) == sizes(two_losses) == [1, 2]
        assert len(saved.plugs()) == 3
        assert "late.py" in saved.plugs()
        assert {p.name for p in saved.folder.glob("*.py")} == set(saved.plugs())
    retrained = plan_stage(here / "work", "train", open_kit("package/mine.json"), prepared)
    assert retrained.run.name == plan.run.name, "train.sh makes a run of the same name"


def test_a_plug_file_with_a_unique_name_keeps_it(here, kit):
    for name in ("late.py", "other.py"):
        (here / name).write_text(LATE)
    change = 'fusion={ use = "%s" }'
    for use, saved in (
        ("./late.py", "./late.py"),
        ("late.py", "late.py"),
        (str(here / "other.py"), "./other.py"),
    ):
        opened_kit = open_kit(str(kit), changes=(change % use,))
        assert opened_kit.saved_tables()["fusion"]["use"] == saved
        assert list(opened_kit.plugs()) == [Path(saved).name]
        assert opened_kit.saved_tables() == opened_kit.tables | {"fusion": {"use": saved}}


def test_the_kit_of_a_run_opens_without_the_kits_folder(trained, here):
    path = Path(trained["folder"]) / "fold-0" / "kit.json"
    assert open_kit(str(path)).tables["about"] == "A toy."
    assert toys.run_json("kits", path)["train"]["epochs"] == 4


def test_training_serving_and_a_saved_kit_read_fields_in_the_same_order(trained, kit, here):
    """JSON with sorted keys would turn title, asr, ocr into asr, ocr, title, and nobody would
    notice.
    """
    from wbdc.serve.members import load_member

    fold = Path(trained["folder"]) / "fold-0"
    (here / "turned.toml").write_text(
        kit.read_text().replace("title = 14, asr = 8, ocr = 6", "ocr = 6, asr = 8, title = 14")
    )
    for opened_kit in (
        open_kit(str(kit)),
        open_kit(str(fold / "kit.json")),
        open_kit("turned.toml"),
    ):
        assert list(opened_kit.tables["text"]["fields"].items()) == [
            ("title", 14),
            ("asr", 8),
            ("ocr", 6),
        ]
    assert list(load_member(fold).text.fields.items()) == [("title", 14), ("asr", 8), ("ocr", 6)]


def test_a_change_may_have_line_breaks_inside_a_table():
    change = 'vision={use="two_stream", frames=4,\nrgb={use="linear_patches"}}'
    table = _parse_change(change)["vision"]
    assert table == {"use": "two_stream", "frames": 4, "rgb": {"use": "linear_patches"}}
    assert _parse_change("train.epochs=1\ntrain.batch=2") == {"train": {"epochs": 1, "batch": 2}}
    with pytest.raises(UsageFault, match="--set vision="):
        _parse_change('vision={use=\n"two_stream"')
