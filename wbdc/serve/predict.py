"""Rebuild a trained model from its folder and score videos."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.core.errors import IntegrityBroken, ResultInvalid
from wbdc.core.files import read_json
from wbdc.core.integrity import verify_seal_if_present
from wbdc.core.out_of_memory import BatchParts, is_out_of_memory
from wbdc.core.weights import load_weights
from wbdc.data.text import TextReader, open_tokenizer
from wbdc.nets.model import VideoClassifier, build_model

T = TypeVar("T")
WEIGHTS_FILE, MODEL_FILE, TOKENIZER_FILE = "model.safetensors", "model.json", "tokenizer.json"
# in model.json: where the weights of the vision tower lie, when several members of a package share
# them
TOWER = "tower"
MODEL_SHAPE = {
    "blueprint": {
        "trunk": dict,
        "vision": dict,
        "fusion": dict,
        "classes": int,
        "special": {str: int},
    },
    "classes": [str],
    "competition?": str,
    "text": {"fields": ([list], {str: int}), "length": int},
    "without": (str, None),
    "serve": {"batch": int, "precision": str},
    "tower?": str,
}


@dataclass(frozen=True)
class Member:
    """A model and how it reads. classes: class id of each logit; without: the modality it was
    trained without, if any.
    """

    name: str
    model: VideoClassifier
    text: TextReader
    classes: list[str]
    without: str | None
    batch: int

    def see(self, batch: Batch) -> Batch:
        """Take away the modality the model was trained without."""
        return batch.drop_modality(self.without) if self.without else batch


def load_member(
    folder: Path,
    device: torch.device = torch.device("cpu"),
    *,
    frames: int | None = None,
    length: int | None = None,
    half: bool = False,
) -> Member:
    """Rebuild the model that `folder` describes; every weight must find its place.

    frames, length: serve fewer frames or tokens than it learned from. half: its weights are rounded
    to float16, as they may be stored.

    Raises IntegrityBroken when a file is missing or damaged, or the weights belong to another model
    or hold NaN.
    """
    verify_seal_if_present(folder)
    facts = read_model(folder)
    model = build_model(facts["blueprint"], kit_folder=folder)
    try:
        weights = load_weights(folder / WEIGHTS_FILE) | (
            load_weights(folder / facts[TOWER]) if TOWER in facts else {}
        )
        if half:
            weights = {
                name: w.half().float() if w.is_floating_point() else w
                for name, w in weights.items()
            }
        if odd := [
            name
            for name, t in model.state_dict().items()
            if name in weights and weights[name].dtype != t.dtype
        ]:
            raise RuntimeError(
                f"another kind of number in {', '.join(odd[:10])}"
            )  # torch would convert them in silence
        model.load_state_dict(weights, strict=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise IntegrityBroken(
            f"{folder / WEIGHTS_FILE} does not fit {MODEL_FILE} beside it: {' '.join(str(error).split())[:600]}"
        ) from error
    broken = [
        name for name, w in weights.items() if w.is_floating_point() and not w.isfinite().all()
    ]
    if broken:
        raise IntegrityBroken(
            f"{folder / WEIGHTS_FILE} holds numbers that are not finite, in {', '.join(broken[:10])}"
        )
    if frames is not None:
        model.vision.frames = frames
    text = TextReader(open_tokenizer(folder), **_shortened(facts["text"], length))
    return Member(
        folder.name,
        model.eval().to(device),
        text,
        facts["classes"],
        facts["without"],
        facts["serve"]["batch"],
    )


def read_model(folder: Path) -> dict:
    """Read what rebuilds a model, and how it serves. Raises IntegrityBroken when it is missing or
    damaged.
    """
    return read_json(folder / MODEL_FILE, MODEL_SHAPE)


def _shortened(text: dict, length: int | None) -> dict:
    """Return the settings of a text reader, each field's budget in proportion when rows are to be
    shorter.
    """
    fields = dict(text["fields"])  # given as pairs: their order is the order of reading
    room = (length or text["length"]) - 1 - len(fields)
    if room < sum(fields.values()):
        fields = {
            name: budget * max(0, room) // sum(fields.values()) for name, budget in fields.items()
        }
    return {**text, "fields": fields, "length": length or text["length"]}


@torch.no_grad()  # inference_mode slows autocast down, see benchmarks/test_autocast.py
def predict_probabilities(
    model: VideoClassifier, batches: Iterable[Batch], device: torch.device, precision: torch.dtype
) -> Tensor:
    """Score videos: (n, C) float32 probabilities on the CPU, in the order given. Raises
    ResultInvalid as `certain` does.
    """
    model.eval()
    parts = BatchParts()

    def score(batch: Batch) -> Tensor:
        batch = batch.to(device)
        return safe_softmax(lambda _: model.logits(batch), batch.ids, device, precision)

    return torch.cat(
        [
            part
            for b in batches
            for part in compute_in_parts(lambda rows, b=b: score(b.select(rows)), len(b), parts)
        ]
    )


def compute_in_parts(compute: Callable[[slice], T], rows: int, parts: BatchParts) -> list[T]:
    """Compute `rows` videos: all at once, and in two parts when memory runs out, in four, in eight.
    Raises OutOfResources when these do not fit.
    """
    while True:
        try:
            return [compute(part) for part in parts.slices(rows)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        parts.double(rows, "lower serve.batch in the kit, or take another device")


def safe_softmax(
    logits: Callable[[torch.dtype], Tensor],
    ids: tuple[str, ...],
    device: torch.device,
    precision: torch.dtype,
) -> Tensor:
    """Turn logits (B, C) into probabilities on the CPU; once more in FP32 when half precision
    overflowed.

    logits: a function of the precision, called inside it. Raises ResultInvalid when they are not
    finite even then: never a silent class 0.
    """
    for attempt in dict.fromkeys((precision, torch.float32)):
        with autocast(device, attempt):
            scores = logits(attempt).float()
        if scores.isfinite().all():
            return scores.softmax(-1).cpu()
    bad = [name for name, row in zip(ids, scores.isfinite().all(1).tolist()) if not row]
    raise ResultInvalid(
        f"{len(bad)} videos of a batch have scores that are not finite, even in fp32, first {bad[0]}"
    )
