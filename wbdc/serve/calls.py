"""Predict one item per call: read a JSON line, write a JSON line, until the input ends."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from wbdc.competitions import FRAMES_FILE, Competition, Source, Video
from wbdc.core.errors import DataFault, WbdcError
from wbdc.core.findings import Findings
from wbdc.serve.apply_multipliers import apply_multipliers
from wbdc.serve.engine import InferenceEngine

MAX_REPLY_ERROR_CHARACTERS = 300


def serve_calls(
    engine: InferenceEngine,
    contest: Competition,
    lines: Iterable[str],
    reply: Callable[[str], None],
    multipliers: np.ndarray | None = None,
) -> int:
    """Predict items one by one as their lines arrive; return their number.

    A line is an item as in the annotations, with "frames": the path of its archive, and the path of
    the file of each further modality, for example "audio". The reply is
    {"id", <the contest's label_key>, "probability"}, or {"id", "error"} for a line that cannot be
    read: a bad call does not end the others.
    multipliers: (C,) class multipliers.
    """
    count = 0
    for line in lines:
        count += 1
        item_id = None
        try:
            item = json.loads(line)
            item_id = item.get("id") if isinstance(item, dict) else None
            fields = _predict(engine, contest, item, multipliers)
        except (WbdcError, ValueError, RecursionError) as error:
            fields = {"error": str(error)[:MAX_REPLY_ERROR_CHARACTERS]}
        reply(json.dumps({"id": item_id, **fields}))
    return count


def _predict(
    engine: InferenceEngine, contest: Competition, item: object, multipliers: np.ndarray | None
) -> dict:
    """Return the class and probability of one item. Raises DataFault."""
    is_table = isinstance(item, dict)
    if not is_table or not all(isinstance(item.get(key), str) for key in ("id", "frames")):
        raise DataFault(
            'a call is an object with "id", "frames" (the path of its archive) and the text fields'
            " of an annotation"
        )
    fields = contest.read_fields(item, Findings())
    paths = {
        name: item["frames"] if path == FRAMES_FILE else item.get(name)
        for name, path in contest.modalities.items()
    }
    modalities = {n: Source(Path(path)) for n, path in paths.items() if isinstance(path, str)}
    video = Video(item["id"], fields, None, Source(Path(item["frames"])), modalities)
    predictions = engine.predict([video])
    row = predictions.probabilities
    if multipliers is not None:
        row = apply_multipliers(row, multipliers)
    best = int(row[0].argmax())
    probability = round(float(row[0, best]), 6)
    return {contest.label_key: predictions.classes[best], "probability": probability}
