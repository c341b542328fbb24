"""Recipe files: every mistake is an error with the nearest known name, before anything runs."""

import re

import click
import pytest
import toys

from wbdc.cli import main
from wbdc.core.errors import UsageFault
from wbdc.recipes.plan import plan_recipe
from wbdc.recipes.recipe import open_recipe, recipe_names
from wbdc.recipes.step_commands import PSEUDO_KEY, STEP_COMMANDS
from wbdc.recipes.step_kit import open_step_kit
from wbdc.recipes.step_results import RecipeOptions

WRONG = {  # {mistake: (text of the toy recipe, its replacement, message)}
    "unknown key": ('about = "A toy."', 'abuot = "A toy."', "no key 'abuot'; did you mean 'about'"),
    "no origin": ('origin = "Nowhere."', "", "recipe toy_recipe needs 'origin'"),
    "a step without a name": ('name = "blend"\n', "", "step 5 needs a text for 'name'"),
    "a step without an origin": (
        'name = "data"\ncommand = "prepare"\nfolds = 3\norigin = "the layout of the contest"',
        'name = "data"\ncommand = "prepare"\nfolds = 3',
        "step 'data' needs a text for 'origin'",
    ),
    "a name with a space": ('name = "single"', 'name = "a b"', "lower-case letters, digits"),
    "unknown command": ('"pretrain"', '"pretran"', "runs no 'pretran'; did you mean 'pretrain'"),
    "unknown option": ("folds = 3", "fold = 3", "prepare takes no 'fold'; did you mean 'folds'"),
    "an option of another command": ("folds = 3", "draws = 3", "prepare takes no 'draws'"),
    "a text for a number": ("folds = 3", 'folds = "3"', "folds = '3' is not of the type int"),
    "no kit": ('kit = "toy"\nset', "set", "step 'pretrained': pretrain needs 'kit'"),
    "no runs": ('run = ["single", "dual"]', "run = []", r"run = \[\] is not the name of a step"),
    "unknown reference": (
        '"single", "dual"',
        '"single", "dula"',
        "step 'blend': run = 'dula' is no step; did you mean 'dual'",
    ),
    "a later step": ('from = "pretrained"', 'from = "blend"', "'blend' refers to a later step"),
    "a reference to itself": ('from = "pretrained"', 'from = "dual"', "refers to a later step"),
    "another kind of result": (
        '"single", "dual"',
        '"single", "dual", "pretrained"',
        "'pretrained' takes a run, and that step makes a pretrained run",
    ),
    "a name twice": ('name = "dual"', 'name = "single"', "another step has this name"),
    "a result that nothing uses": (
        'from = "pretrained"\n',
        "",
        "step 'pretrained': no later step uses its result .pretrained run",
    ),
    "data prepared in between": (
        'name = "pretrained"',
        'name = "x"\ncommand = "prepare"\norigin = "y"\n[[step]]\nname = "pretrained"',
        "data are prepared once",
    ),
    "steps that are no tables": ("[[step]]", "[step]", "recipe.toml: "),
    "a date": (
        '"train.epochs" = 1 }',
        '"train.epochs" = 1979-05-27 }',
        "is a date, and no setting",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_are_refused_with_a_hint(mistake, toy_recipe):
    before, after, message = WRONG[mistake]
    change(toy_recipe / "recipe.toml", before, after)
    with pytest.raises(UsageFault, match=message):
        plan_recipe(open_recipe(str(toy_recipe)), RecipeOptions(toy_recipe / "work", toy_recipe))


def change(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1 if before != "[[step]]" else -1))


def test_a_mistake_in_a_kit_is_named_by_its_step_before_anything_runs(toy_recipe, runner):
    from wbdc.recipes.run_recipe import run_recipe

    change(toy_recipe / "recipe.toml", '"train.epochs" = 1 }', '"train.epoch" = 1 }')
    recipe = open_recipe(str(toy_recipe))
    options = RecipeOptions(toy_recipe / "work", toy_recipe)
    with pytest.raises(UsageFault, match="step 'dual': .* no setting 'epoch'; did you mean"):
        run_recipe(recipe, options, log=print, run=runner)
    assert runner.commands == []
    assert not options.work.exists()
    with pytest.raises(UsageFault, match=r"step 'pretrained': kit toy has no \[tiny\] table"):
        plan_recipe(recipe, RecipeOptions(toy_recipe, tiny=True))


def test_a_kit_beside_the_recipe_comes_first(toy_recipe):
    recipe = open_recipe(str(toy_recipe))
    assert recipe.kit(recipe.steps[0]) is None
    assert recipe.kit(recipe.steps[1]) == str(toy_recipe / "toy.toml")


def test_pseudo_labels_of_a_step_and_of_its_kit_must_agree(toy_recipe, ready):
    labels = '[[step]]\nname = "labels"\ncommand = "pseudo"\nfrom = "single"\norigin = "x"\n\n'
    dual = '[[step]]\nname = "dual"\n'
    change(toy_recipe / "recipe.toml", dual, f'{labels}{dual}pseudo = "labels"\n')
    recipe = open_recipe(str(toy_recipe))
    with pytest.raises(UsageFault, match="step 'dual': .* reads the pseudo-labels - and the step"):
        plan_recipe(recipe, RecipeOptions(ready))

    with (toy_recipe / "toy.toml").open("a") as kit:
        kit.write('[train.pseudo]\nname = "any"\n')
    with pytest.raises(UsageFault, match="step 'single': .* pseudo-labels any and the step has"):
        plan_recipe(recipe, RecipeOptions(ready))

    kit = open_step_kit(recipe, recipe.steps[4], False, {"labels": "labels-1a2b3c4d"})
    assert kit.tables["train"]["pseudo"] == {"name": "labels-1a2b3c4d"}
    assert 'train.pseudo.name="labels-1a2b3c4d"' in kit.options


def test_the_name_of_pseudo_labels_replaces_that_of_an_objective():
    recipe = open_recipe("wbdc2022/rank1")
    step = next(step for step in recipe.steps if step.name == "round1_dual_pretrained")
    before = open_step_kit(recipe, step, True).tables["pretrain"]["objective"]
    renamed = open_step_kit(recipe, step, True, {"labels": "x"}).tables["pretrain"]["objective"]
    assert renamed == [*before[:-1], before[-1] | {"name": "x"}]
    assert before[-1]["name"] != "x"


def test_unknown_recipes_get_a_hint(toy_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_recipe.rename((tmp_path / "kits").mkdir() or tmp_path / "kits" / "mine")
    assert "mine" in recipe_names()
    assert open_recipe("mine").name == "mine"
    with pytest.raises(UsageFault, match="no recipe called 'mien'; did you mean 'mine'"):
        open_recipe("mien")
    with pytest.raises(UsageFault, match="no recipe at .*recipe.toml"):
        open_recipe(str(tmp_path))
    (tmp_path / "recipe.toml").write_text("[[step")
    with pytest.raises(UsageFault, match=r"recipe.toml: "):
        open_recipe(str(tmp_path / "recipe.toml"))


@pytest.mark.parametrize("name", STEP_COMMANDS)
def test_every_option_of_a_step_is_an_option_of_its_command(name):
    rules = STEP_COMMANDS[name]
    command = main.get_command(click.Context(main), name)
    flags = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    options = {f"--{key}" for key in (*rules.known_keys(), *rules.machine)}
    assert options - {"--submission", f"--{PSEUDO_KEY}"} <= flags  # an argument; part of the kit
    required = {p.opts[0].removeprefix("--") for p in command.params if p.required}
    given = {*rules.required, *rules.machine}
    assert required <= given, "a step could leave out what the command needs"
    repeated = {p.opts[0].removeprefix("--") for p in command.params if p.multiple}
    assert {key for key, kind in rules.options.items() if kind is list} <= repeated


def test_show_prints_the_origin_of_each_step(toy_recipe):
    shown = toys.wbdc("recipe", "show", toy_recipe)
    assert shown.exit_code == 0
    assert re.search(r"3\. single: wbdc train\n +kit = .*toy\.toml\n", shown.stdout)
    assert "a guess" in shown.stdout
    assert toys.run_json("recipe", "show", toy_recipe)["steps"][4]["run"] == ["single", "dual"]
