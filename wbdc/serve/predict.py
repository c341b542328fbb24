"""Members: trained models rebuilt from their folders, and their probabilities."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.device import CPU, autocast
from wbdc.core.errors import IntegrityFault, ResultFault
from wbdc.core.files import read_json
from wbdc.core.integrity import verify_seal_if_present
from wbdc.core.out_of_memory import BatchParts, is_out_of_memory
from wbdc.core.weights import load_weights
from wbdc.data.text import TextReader, open_tokenizer
from wbdc.nets.model import VideoClassifier, build_model

T = TypeVar("T")
# launches a network in a precision, whose autocast context is active; returns logits (B, C)
Logits = Callable[[torch.dtype], Tensor]
WEIGHTS_FILE = "model.safetensors"
MODEL_FILE = "model.json"
TOKENIZER_FILE = "tokenizer.json"
# in model.json: the file with the weights of the vision tower, when several members share it
TOWER = "tower"
MODEL_SHAPE = {
    "blueprint": {
        "trunk": dict,
        "vision": dict,
        "fusion": dict,
        "pooling": dict,
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
MAX_ERROR_CHARACTERS = 600
MAX_NAMES = 10  # in an error


@dataclass(frozen=True)
class Member:
    """A model and its inputs.

    text: turns fields into token ids; classes: class id of each logit; without: the modality that
    the model was trained without, if any; batch: videos computed together.
    """

    name: str
    model: VideoClassifier
    text: TextReader
    classes: list[str]
    without: str | None
    batch: int

    def drop_modality(self, batch: Batch) -> Batch:
        """Return the batch without the modality that the model was trained without."""
        return batch.drop_modality(self.without) if self.without else batch


def load_member(
    folder: Path,
    device: torch.device = CPU,
    *,
    frames: int | None = None,
    length: int | None = None,
    half: bool = False,
) -> Member:
    """Rebuild the model of `folder`; names, shapes and dtypes of all weights must match.

    frames, length: serve fewer frames or tokens than in training; half: round weights to float16,
    as they may be stored.
    Raises IntegrityFault when a file is missing or damaged, or the weights belong to another model
    or hold NaN.
    """
    verify_seal_if_present(folder)
    facts = read_model(folder)
    model = build_model(facts["blueprint"], kit_folder=folder)
    _load_weights(model, folder, facts, half)
    if frames is not None:
        model.vision.frames = frames
    return Member(
        folder.name,
        model.eval().to(device),
        TextReader(open_tokenizer(folder), **_shorten_text(facts["text"], length)),
        facts["classes"],
        facts["without"],
        facts["serve"]["batch"],
    )


def read_model(folder: Path) -> dict:
    """Read model.json, which rebuilds a model. Raises IntegrityFault."""
    return read_json(folder / MODEL_FILE, MODEL_SHAPE)


@torch.no_grad()  # inference_mode slows autocast down, see benchmarks/test_autocast.py
def predict_probabilities(
    model: VideoClassifier, batches: Iterable[Batch], device: torch.device, precision: torch.dtype
) -> Tensor:
    """Return the probabilities of some batches, (n, C) float32 on the CPU, in their order.

    The CPU waits for the device once for each batch. Raises ResultFault as `safe_softmax` does.
    """
    model.eval()
    parts = BatchParts()

    def predict(batch: Batch) -> Tensor:
        batch = batch.to(device)
        logits = [lambda _: model.logits(batch)]
        return torch.from_numpy(safe_softmax(logits, batch.ids, device, precision)[0])

    probabilities = []
    for batch in batches:
        probabilities += compute_in_parts(
            lambda rows, batch=batch: predict(batch.select(rows)), len(batch), parts
        )
    return torch.cat(probabilities)


def compute_in_parts(compute: Callable[[slice], T], rows: int, parts: BatchParts) -> list[T]:
    """Compute `rows` videos at once; when memory runs out, in two, four or eight parts.

    Raises OutOfResources when eighths do not fit.
    """
    while True:
        try:
            return [compute(part) for part in parts.slices(rows)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        parts.double(rows, "lower serve.batch in the kit, or use another device")


def safe_softmax(
    logits: Sequence[Logits], ids: tuple[str, ...], device: torch.device, precision: torch.dtype
) -> np.ndarray:
    """Return the probabilities of M members, (M, B, C) float32; those of a member that overflows in
    half precision are computed again in FP32.

    The CPU waits for the device once, and once more for each member that is computed again. Raises
    ResultFault when logits are not finite even in FP32, where argmax would silently return class 0.
    """
    probabilities, finite = _softmax_in(precision, logits, device)
    for i in np.flatnonzero(~finite.all(1)):
        if precision != torch.float32:
            member = slice(i, i + 1)
            probabilities[member], finite[member] = _softmax_in(
                torch.float32, logits[member], device
            )
        _check_finite(finite[i], ids)
    return probabilities


def _softmax_in(
    precision: torch.dtype, logits: Sequence[Logits], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (M, B, C) and whether the logits of each video are finite (M, B).

    Both come to the CPU in one copy, the only operation here that waits for a GPU.
    """
    members = []
    for launch in logits:
        with autocast(device, precision):
            scores = launch(precision)
        scores = scores.float()
        finite = scores.isfinite().all(1, keepdim=True)
        members.append(torch.cat([scores.softmax(-1), finite.float()], 1))
    joined = torch.stack(members).cpu().numpy()
    return joined[..., :-1], joined[..., -1] == 1


def _check_finite(finite: np.ndarray, ids: tuple[str, ...]) -> None:
    """Raise ResultFault unless the logits of every video are finite: (B,) bool."""
    bad_ids = [name for name, is_finite in zip(ids, finite, strict=True) if not is_finite]
    if bad_ids:
        raise ResultFault(
            f"{len(bad_ids)} videos of a batch have scores that are not finite, even in fp32, first"
            f" {bad_ids[0]}"
        )


def _load_weights(model: VideoClassifier, folder: Path, facts: dict, half: bool) -> None:
    """Load the weights of a folder into its model. Raises IntegrityFault."""
    try:
        weights = load_weights(folder / WEIGHTS_FILE)
        if TOWER in facts:
            weights |= load_weights(folder / facts[TOWER])
        if half:
            weights = {name: _round_to_half(tensor) for name, tensor in weights.items()}
        _check_dtypes(model, weights)
        model.load_state_dict(weights, strict=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        message = " ".join(str(error).split())[:MAX_ERROR_CHARACTERS]
        raise IntegrityFault(
            f"{folder / WEIGHTS_FILE} does not fit {MODEL_FILE} beside it: {message}"
        ) from error

    broken = [
        name
        for name, tensor in weights.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        raise IntegrityFault(
            f"{folder / WEIGHTS_FILE} holds numbers that are not finite, in"
            f" {', '.join(broken[:MAX_NAMES])}"
        )


def _round_to_half(tensor: Tensor) -> Tensor:
    return tensor.half().float() if tensor.is_floating_point() else tensor


def _check_dtypes(model: VideoClassifier, weights: dict[str, Tensor]) -> None:
    """Refuse weights of another dtype, which torch would convert without a warning."""
    mismatches = [
        name
        for name, tensor in model.state_dict().items()
        if name in weights and weights[name].dtype != tensor.dtype
    ]
    if mismatches:
        raise RuntimeError(f"another dtype in {', '.join(mismatches[:MAX_NAMES])}")


def _shorten_text(text: dict, length: int | None) -> dict:
    """Return the settings of a text reader for sequences of `length` tokens.

    The fields' budgets shrink in proportion.
    """
    fields = dict(text["fields"])  # stored as pairs: their order is the reading order
    length = length or text["length"]
    room, budgets = length - 1 - len(fields), sum(fields.values())
    if room < budgets:
        fields = {name: budget * max(0, room) // budgets for name, budget in fields.items()}
    return {**text, "fields": fields, "length": length}
