"""Export of a trained fold: its weights, the files that rebuild the model, and its out-of-fold
predictions.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from wbdc.core.device import find_precision
from wbdc.core.files import publish_bytes, publish_file, publish_json
from wbdc.nets.default_head import DEFAULT_HEAD
from wbdc.nets.model import VideoClassifier
from wbdc.serve.member_files import MODEL_FILE, WEIGHTS_FILE
from wbdc.serve.members.network import TOKENIZER_FILE
from wbdc.serve.predict import predict_probabilities
from wbdc.train.dataset import Dataset
from wbdc.train.distributed.gather import sum_over_ranks
from wbdc.train.distributed.sharded_layers import whole_weights
from wbdc.train.hardware import Hardware
from wbdc.train.initial_model import InitialModel
from wbdc.train.kit import SavedKit
from wbdc.train.kit_files import KIT_FILE
from wbdc.train.kit_schema import MODALITY_TABLE
from wbdc.train.runs import OOF_FILE, write_oof
from wbdc.train.stage_plan import StagePlan


def export_fold(
    folder: Path, initial: InitialModel, plan: StagePlan, weights: dict[str, torch.Tensor]
) -> None:
    """Publish the weights that are evaluated, with everything that rebuilds the model.

    weights: of `copy_weights`. Writes model.safetensors, model.json, tokenizer.json, kit.json, the
    kit's own plugs and the contest's file, if any.
    """
    publish_file(folder / WEIGHTS_FILE, lambda temporary: save_file(weights, temporary))
    tokenizer = initial.input_spec.text.tokenizer
    publish_bytes(folder / TOKENIZER_FILE, tokenizer.to_str().encode())
    publish_json(folder / KIT_FILE, plan.saved_kit.tables)
    for name, path in plan.saved_kit.plug_files.items():
        publish_file(folder / name, lambda temporary, path=path: shutil.copyfile(path, temporary))
    plan.contest.save(folder)
    publish_json(folder / MODEL_FILE, _model_facts(initial, plan))


def _model_facts(initial: InitialModel, plan: StagePlan) -> dict:
    """Return the content of model.json: what rebuilds the model and its inputs."""
    facts = plan.run.facts
    # pairs: JSON with sorted keys would change the order in which fields are read
    fields = list(initial.text["fields"].items())
    return {
        "blueprint": saved_blueprint(initial.model, plan.saved_kit),
        "classes": facts.classes,
        "competition": facts.competition,
        "text": initial.text | {"fields": fields},
        "without": facts.without,
        "serve": {"batch": plan.serve.batch, "precision": plan.serve.precision},
    }


def saved_blueprint(model: VideoClassifier, kit: SavedKit) -> dict:
    """Return what rebuilds the model beside its saved plugs."""
    head = kit.tables.get("head", DEFAULT_HEAD)
    blueprint = model.blueprint(kit.tables["fusion"], kit.tables["pooling"], head)
    blueprint["vision"] = _saved_tower(blueprint["vision"], kit.tables["vision"], kit)
    for name, tower in blueprint.get(MODALITY_TABLE, {}).items():
        table = kit.tables[MODALITY_TABLE][name]
        blueprint[MODALITY_TABLE][name] = _saved_tower(tower, table, kit)
    return blueprint


def _saved_tower(tower: dict, table: dict, kit: SavedKit) -> dict:
    """Return the blueprint of a tower, which states only the name of its own file, with the name
    under which a kit saves this file; the same for the towers inside it. table: of the saved kit.
    """
    inner = {
        name: _saved_tower(value, table[name], kit)
        for name, value in tower.items()
        if all(isinstance(one, dict) and "use" in one for one in (value, table.get(name)))
    }
    tower = tower | inner
    saved_use = table["use"]
    file = kit.plug_files.get(Path(saved_use).name)
    is_same = Path(tower["use"]).name == (file.name if file else saved_use)
    return tower | {"use": saved_use} if is_same else tower


def evaluate_fold(
    folder: Path,
    fold: str,
    plan: StagePlan,
    model: VideoClassifier,
    dataset: Dataset,
    positions: np.ndarray,
    hardware: Hardware,
) -> dict:
    """Predict the held-out videos at `positions`, which are sorted, with the code that serves.

    Publishes the out-of-fold predictions and returns {"score", "official"}: the contest's scores
    over the run's classes, and in the official way. Both are computed over all videos at once, so
    they do not depend on the batches or on the number of ranks, which share the batches.
    """
    probabilities = _predict(plan, model, dataset, positions, hardware)
    truth = _true_classes(plan, dataset, positions)
    ids = [dataset.ids[i] for i in positions]
    hardware.ranks.on_main(lambda: write_oof(folder / OOF_FILE, ids, fold, truth, probabilities))

    classes = plan.run.facts.classes
    score = plan.contest.score_probabilities
    return {
        "score": score(truth, probabilities, classes),
        "official": score(truth, probabilities, classes, official=True),
    }


def score_held_out(
    plan: StagePlan,
    model: VideoClassifier,
    dataset: Dataset,
    positions: np.ndarray,
    hardware: Hardware,
) -> dict[str, float]:
    """Return the "score" of `evaluate_fold` of the videos at `positions`. Writes nothing."""
    probabilities = _predict(plan, model, dataset, positions, hardware)
    truth = _true_classes(plan, dataset, positions)
    return plan.contest.score_probabilities(truth, probabilities, plan.run.facts.classes)


def _true_classes(plan: StagePlan, dataset: Dataset, positions: np.ndarray) -> list[str]:
    return [plan.run.facts.classes[code] for code in dataset.labels[positions]]


def _predict(
    plan: StagePlan,
    model: VideoClassifier,
    dataset: Dataset,
    positions: np.ndarray,
    hardware: Hardware,
) -> np.ndarray:
    """Return the class probabilities of the videos at `positions`, in order: (n, C) float32.

    Each rank computes some batches, and all return all of them.
    """
    ranks = hardware.ranks
    order, batches = dataset.evaluation_batches(
        positions,
        plan.serve.batch,
        rank=ranks.rank,
        ranks=ranks.size,
        threads=hardware.threads,
    )
    probabilities = torch.zeros(len(positions), len(plan.run.facts.classes))
    precision = find_precision(plan.serve.precision, hardware.device)
    with whole_weights(model):  # on all ranks, also on one without batches
        if len(order):
            probabilities[order] = predict_probabilities(model, batches, hardware.device, precision)
    # each row is zero on all ranks but one, so the sum is exact
    return sum_over_ranks(probabilities).numpy()
