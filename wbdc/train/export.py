"""What a trained fold leaves behind: its weights, what rebuilds them, and what it says of videos it
did not see.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from wbdc.competitions import Competition
from wbdc.core.device import find_precision
from wbdc.core.files import publish_bytes, publish_file, publish_json
from wbdc.nets.model import VideoClassifier
from wbdc.serve.predict import MODEL_FILE, TOKENIZER_FILE, WEIGHTS_FILE, predict_probabilities
from wbdc.train.dataset import Dataset
from wbdc.train.initial_model import InitialModel
from wbdc.train.kit import Kit
from wbdc.train.runs import OOF_FILE, Run, write_oof
from wbdc.train.tricks import Trick


def export_fold(
    folder: Path, made: InitialModel, run: Run, kit: Kit, contest: Competition, tricks: list[Trick]
) -> None:
    """Publish the weights that the tricks want judged, and all that rebuilds the model; put those
    weights into it.

    Writes model.safetensors, model.json, tokenizer.json, kit.json, the kit's own plugs and the
    contest's file, if any.
    """
    model = made.model
    with _evaluating(tricks):
        final = {
            name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()
        }
    model.load_state_dict(final, strict=True)
    publish_file(folder / WEIGHTS_FILE, lambda temporary: save_file(final, temporary))
    publish_bytes(folder / TOKENIZER_FILE, made.reading.text.tokenizer.to_str().encode())
    tables = kit.saved_tables()
    publish_json(folder / "kit.json", tables)
    for name, path in kit.plugs().items():
        publish_file(folder / name, lambda temporary, path=path: shutil.copyfile(path, temporary))
    contest.save(folder)
    serve = kit.serving()
    publish_json(
        folder / MODEL_FILE,
        {
            "blueprint": _blueprint(model, kit.tables["vision"]["use"], tables),
            "classes": run.facts.classes,
            "competition": run.facts.competition,
            "text": made.text
            | {
                "fields": list(made.text["fields"].items())
            },  # pairs, as JSON with sorted keys would change the order of reading
            "without": run.facts.without,
            "serve": {"batch": serve.batch, "precision": serve.precision},
        },
    )


def _blueprint(model: VideoClassifier, vision: str, tables: dict) -> dict:
    """Return what rebuilds the model beside its saved plugs. vision: the tower's `use` in the kit."""
    blueprint = model.blueprint(tables["fusion"])
    tower = blueprint["vision"]  # a tower words it itself, and knows only the name of its own file
    if Path(tower["use"]).name == Path(vision).name:
        blueprint["vision"] = tower | {"use": tables["vision"]["use"]}

    return blueprint


@contextmanager
def _evaluating(tricks: list[Trick]) -> Iterator[None]:
    with ExitStack() as held:
        for trick in tricks:
            held.enter_context(trick.evaluating())
        yield


def predict_held_out(
    run: Run,
    folder: Path,
    fold: str,
    kit: Kit,
    contest: Competition,
    made: InitialModel,
    rows: Dataset,
    held: np.ndarray,
    device: torch.device,
) -> dict:
    """Predict the held-out videos on the path that serves, publish the predictions and return
    {"score", "official"}.

    held: positions of the videos. Judged on all of them at once: batches have no say in a score.
    """
    serve = kit.serving()
    order, batches = rows.judging(held, serve.batch)
    found = predict_probabilities(
        made.model, batches, device, find_precision(serve.precision, device)
    ).numpy()
    places = np.argsort(order, kind="stable")  # back to the order of the dataset
    found, classes = found[places], run.facts.classes
    ids, truth = (
        [rows.ids[i] for i in order[places]],
        [classes[c] for c in rows.label[order[places]]],
    )
    write_oof(folder / OOF_FILE, ids, fold, truth, found)
    said = [classes[c] for c in found.argmax(1)]
    return {"score": contest.score(truth, said, classes), "official": contest.score(truth, said)}
