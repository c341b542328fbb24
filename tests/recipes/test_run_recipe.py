"""A recipe walks its steps once, continues where it ended, and passes results on."""

import pytest

from wbdc.core.errors import Diverged, IntegrityFault, OutOfResources
from wbdc.core.files import folder_bytes
from wbdc.recipes.plan import FINISHED, READY, WAITING, plan_recipe, total_bytes, total_cost
from wbdc.recipes.recipe import open_recipe
from wbdc.recipes.run_recipe import run_recipe
from wbdc.recipes.step_results import RecipeOptions


def run(folder, options, runner):
    return run_recipe(open_recipe(str(folder)), options, log=lambda line: None, run=runner)


def states(plan):
    return {planned.step.name: planned.state for planned in plan}


@pytest.mark.slow
def test_a_recipe_runs_from_raw_data_to_a_checked_submission(toy_recipe, runner, data, tmp_path):
    options = RecipeOptions(tmp_path / "work", data, threads=1, submissions=tmp_path / "packed")
    before = plan_recipe(open_recipe(str(toy_recipe)), options)
    assert states(before) == {
        "data": READY,
        **dict.fromkeys(("pretrained", "single", "dual", "blend", "packed", "checked"), WAITING),
    }
    assert not options.work.exists()

    plan = {planned.step.name: planned for planned in run(toy_recipe, options, runner)}
    assert [words[0] for words in runner.commands] == [
        *("prepare", "pretrain", "train", "train", "ensemble", "submit", "verify")
    ]
    single, dual = runner.commands[2], runner.commands[3]
    assert single[single.index("--from") + 1] == "none"
    assert dual[dual.index("--from") + 1] == plan["pretrained"].result
    assert "--no-class-priors" in runner.commands[4]
    assert (tmp_path / "packed").is_dir()

    runner.commands.clear()
    again = run(toy_recipe, options, runner)
    assert [words[0] for words in runner.commands] == ["prepare", "verify"]
    assert {p.step.name: p.result for p in again} == {n: p.result for n, p in plan.items()}
    measured, remaining, unknown = total_cost(again)
    assert (measured > 0, remaining, unknown) == (True, 0, [])


@pytest.fixture
def short_recipe(toy_recipe):
    """The toy recipe up to its ensemble."""
    path = toy_recipe / "recipe.toml"
    path.write_text(path.read_text().split('[[step]]\nname = "packed"')[0])
    return toy_recipe


def test_trainings_are_measured_on_demand(short_recipe, fresh):
    options = RecipeOptions(fresh, threads=1, measures=True)
    plan = {p.step.name: p for p in plan_recipe(open_recipe(str(short_recipe)), options)}
    trained = [p for p in plan.values() if p.step.command in ("pretrain", "train")]
    assert len(trained) == 3
    assert {p.state for p in trained} == {READY, WAITING}
    assert all(p.cost.remaining > 0 and p.cost.remaining_bytes > 0 for p in trained)
    assert plan["blend"].cost.remaining is None
    assert not (fresh / "runs").exists()


@pytest.mark.slow
def test_a_recipe_continues_after_a_step_that_failed(short_recipe, runner, fresh):
    options = RecipeOptions(fresh, threads=1)
    runner.fails_at = "ensemble"
    with pytest.raises(Diverged, match="step 5 of 5, blend: the command ended with exit code 10"):
        run(short_recipe, options, runner)
    assert [words[0] for words in runner.commands] == ["pretrain", "train", "train", "ensemble"]

    plan = plan_recipe(open_recipe(str(short_recipe)), options)
    assert [planned.state for planned in plan] == [*[FINISHED] * 4, READY]
    measured, remaining, unknown = total_cost(plan)
    assert measured > 0
    assert (remaining, unknown) == (0, ["blend"])
    folds = (fresh / "runs").glob("*/fold-*")
    assert total_bytes(plan) == (sum(map(folder_bytes, folds)), 0)

    runner.fails_at = None
    runner.commands.clear()
    run(short_recipe, options, runner)
    assert [words[0] for words in runner.commands] == ["ensemble"]
    check_estimates_and_identity(short_recipe, options, runner)


def check_estimates_and_identity(short_recipe, options, runner):
    """A seed changes the run and what is made of it; its time is estimated from the other seed, and
    that of more epochs is scaled. A training of another batch size has no estimate.
    """
    before = {p.step.name: p for p in plan_recipe(open_recipe(str(short_recipe)), options)}
    path = short_recipe / "recipe.toml"
    text = path.read_text()
    path.write_text(text.replace('name = "single"', 'name = "single"\nseed = 1'))
    seed = {p.step.name: p for p in plan_recipe(open_recipe(str(short_recipe)), options)}
    assert seed["single"].result != before["single"].result
    assert seed["single"].cost[:2] == (0, pytest.approx(before["single"].cost.measured))
    assert seed["single"].cost.remaining_bytes == before["single"].cost.bytes > 0
    assert seed["dual"] == before["dual"]
    assert (seed["blend"].state, seed["blend"].cost.remaining) == (WAITING, None)

    path.write_text(text.replace('"train.epochs" = 1, ', '"train.epochs" = 2, '))
    longer = {p.step.name: p for p in plan_recipe(open_recipe(str(short_recipe)), options)}
    assert longer["single"].cost[:2] == (0, pytest.approx(2 * before["single"].cost.measured))

    path.write_text(text.replace('"train.epochs" = 1, ', '"train.epochs" = 1, "train.batch" = 2, '))
    wider = {p.step.name: p for p in plan_recipe(open_recipe(str(short_recipe)), options)}
    assert wider["single"].cost == (0, None, 0, None)


def test_a_killed_command_and_one_without_a_result_are_errors(short_recipe, fresh):
    options = RecipeOptions(fresh, threads=1)
    with pytest.raises(OutOfResources, match="step 2 of 5, pretrained: signal 9 killed"):
        run(short_recipe, options, lambda words: -9)
    with pytest.raises(IntegrityFault, match="its result is not complete; .*`wbdc pretrain"):
        run(short_recipe, options, lambda words: 0)
