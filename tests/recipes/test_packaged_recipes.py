"""Packaged recipes: each plans itself, tiny and full, and its kits resolve at full size."""

import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from open_clip.model import _build_vision_tower
from transformers import BertConfig, BertModel

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.weights import load_weights
from wbdc.data.special_tokens import SPECIAL_TOKENS
from wbdc.nets import trunk as trunks
from wbdc.nets.vision import clip
from wbdc.prepare.dataset import open_prepared
from wbdc.recipes.plan import WAITING, plan_recipe
from wbdc.recipes.recipe import open_recipe, recipe_names
from wbdc.recipes.step_results import RecipeOptions
from wbdc.train import objectives, tricks
from wbdc.train.initial_model import build_initial_model
from wbdc.train.kit import open_kit
from wbdc.train.kit_files import PACKAGED_KIT_FOLDERS, kit_names
from wbdc.train.objective_parts.soft_labels import SoftLabels
from wbdc.train.optimizer import parameter_groups

HOME = PACKAGED_KIT_FOLDERS[0]
RECIPES = sorted(path.parent.relative_to(HOME).as_posix() for path in HOME.rglob("recipe.toml"))
RANKS = {f"wbdc2022/rank{n}" for n in ("1", "2", "3_baopuzi", "3_jiqi", "5", "6", "8", "12")}
KITS = sorted(
    path.relative_to(HOME).with_suffix("").as_posix()
    for path in HOME.glob("*/*/*.toml")
    if path.name != "recipe.toml"
)
every_recipe = pytest.mark.parametrize("name", RECIPES)
VOCABULARY_WORDS = 21128  # of BERT for Chinese


def test_every_row_of_the_field_has_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(RECIPES) >= RANKS
    assert recipe_names() == RECIPES
    listed = toys.run_json("recipe", "list")
    assert set(listed) == set(RECIPES)
    assert not [kit for kit in kit_names() if "/" in kit], "kits of recipes are not listed alone"


@every_recipe
def test_a_recipe_uses_every_file_beside_it_and_states_its_origin(name):
    recipe = open_recipe(name)
    folder = HOME / name
    used = {Path(kit).name for kit in map(recipe.kit, recipe.steps) if kit}
    texts = "".join((folder / f"{kit}.toml").read_text() for kit in used)
    used |= {Path(plug_file).stem for plug_file in re.findall(r'use = "./([\w.]+)"', texts)}
    assert {path.stem for path in folder.iterdir() if path.is_file()} == {*used, "recipe"}

    head = (folder / "recipe.toml").read_text().split("about =")[0]
    assert f"#   wbdc recipe run {name} " in head
    assert "Row: " in head
    assert "Left open: " in head
    assert all(re.match(r"row: |guess: |the rules", step.origin) for step in recipe.steps)


@pytest.mark.parametrize("tiny", [True, False])
@every_recipe
def test_a_recipe_plans_all_steps_and_invents_no_time(name, tiny, ready):
    recipe = open_recipe(name)
    plan = plan_recipe(recipe, RecipeOptions(ready, tiny=tiny))
    assert [planned.step for planned in plan] == list(recipe.steps)
    assert plan[-2].step.command == "submit"
    assert {plan[-2].state, plan[-1].state} == {WAITING}
    assert {planned.cost.remaining for planned in plan[1:]} == {None}


def test_the_plan_is_printed_without_running_anything(ready):
    before = sorted(ready.rglob("*"))
    words = ("recipe", "run", "wbdc2022/rank12", "--tiny", "--work", ready, "--dry-run")
    printed = toys.wbdc(*words)
    assert printed.exit_code == 0
    assert "not measured yet" in printed.stdout
    steps = toys.run_json(*words)["steps"]
    assert {step["remaining_seconds"] for step in steps[1:]} == {None}
    assert sorted(ready.rglob("*")) == before


def full_size_bert(folder: Path) -> dict[str, torch.Tensor]:
    """Write what BERT-base for Chinese has beside its weights; return its tensors without data."""
    config = BertConfig(vocab_size=VOCABULARY_WORDS)
    config.save_pretrained(folder)
    words = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(VOCABULARY_WORDS - len(SPECIAL_TOKENS)))]
    (folder / "vocab.txt").write_text("\n".join(words))
    return {f"bert.{name}": tensor for name, tensor in BertModel(config).state_dict().items()}


def full_size_clip(model: str) -> dict[str, torch.Tensor]:
    """Return the tensors of an image tower of CLIP without data."""
    architecture, _, _ = clip.find_listed(model, "openai")
    tower = _build_vision_tower(
        architecture["embed_dim"], dict(architecture["vision_cfg"]), architecture["quick_gelu"]
    )
    return {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}


@pytest.fixture
def full_size_weights(tmp_path, monkeypatch):
    """Let kits find their pretrained weights: files of the right names, tensors without data."""

    def fake(kit) -> None:
        trunk, vision = kit.tables["trunk"]["model"], kit.tables["vision"]["model"]
        hub_name = clip.find_listed(vision, "openai")[2]
        bert = tmp_path / trunk
        tensors = {bert: full_size_bert(bert), tmp_path / hub_name: full_size_clip(vision)}
        for folder in tensors:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.safetensors").touch()
        for module in (trunks, clip):
            assert module.load_weights is load_weights
            monkeypatch.setattr(module, "load_weights", lambda path: tensors[path.parent])
        monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
        # tensors without data know no autocast
        monkeypatch.setattr(torch, "autocast", lambda *_, **settings: nullcontext())

    return fake


@pytest.mark.slow
@pytest.mark.parametrize("name", KITS)
def test_a_kit_resolves_at_full_size(name, ready, full_size_weights):
    kit = open_kit(name)
    prepared = open_prepared(ready)
    with torch.device("meta"):  # shapes without memory
        full_size_weights(kit)
        initial = build_initial_model(kit, prepared, 0)
        model = initial.model
        frames = kit.tables["vision"]["frames"]
        batch = full_batch(initial, frames)
        fused = model(batch)
        logits = model.head(fused.pooled)
    for stage in ("pretrain", "train"):
        check_stage(kit, stage, model, prepared)

    classes = len(prepared.facts.classes)
    assert fused.pooled.shape == (2, 768)
    assert logits.shape == (2, classes)
    tokenizer = initial.input_spec.text.tokenizer
    words = tokenizer.get_vocab_size() - VOCABULARY_WORDS
    assert (words > 0) == ("words" in kit.tables["text"])
    assert model.trunk.embeddings.word_embeddings.weight.shape == (VOCABULARY_WORDS + words, 768)
    assert fused.vision_features.shape[:2] == (2, frames * model.vision.tokens_per_frame)
    assert set(initial.pretrained) == {"trunk", "vision"}


def full_batch(initial, frames: int) -> Batch:
    """Return two videos with all the words and frames that a kit reads."""
    spec = initial.input_spec
    shape = (2, spec.text.length)
    size = spec.image_settings.size
    return Batch(
        ("a", "b"),
        torch.zeros(shape, dtype=torch.int64),
        torch.ones(shape, dtype=torch.bool),
        torch.zeros(2, frames, 3, size, size, dtype=torch.uint8),
        torch.ones(2, frames, dtype=torch.bool),
        text_field=torch.ones(shape, dtype=torch.int8),
        frame_counts=(frames, frames),
    )


def check_stage(kit, stage: str, model, prepared) -> None:
    """Build the objectives and tricks of a stage, and assign their weights to learning rates."""
    settings = kit.stage(stage)
    classes = prepared.facts.classes
    labels = SoftLabels(["a"], np.full((1, len(classes)), 1 / len(classes), np.float32))
    task = replace(
        toys.TASK,
        classes=tuple(classes),
        class_counts=(1,) * len(classes),
        parents=(0,) * len(classes),
        ids=tuple(map(str, range(100_000))),
        soft_labels=lambda name: labels,
    )
    losses = torch.nn.ModuleList(
        plug.build_plug(objectives, table, model, task, kit_folder=kit.folder)
        for table in settings.objective
    )
    for table in settings.trick or []:
        plug.build_plug(tricks, table, model, task, kit_folder=kit.folder)
    groups = parameter_groups(model, losses, settings.learning_rate)
    assert all(groups.values()) or model.vision.frozen
