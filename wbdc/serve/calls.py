"""Calls: one item per call, for judges that ask so: a line of JSON in, a line of JSON out, until
the input ends.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from wbdc.competitions import Competition, Source, Video
from wbdc.core.errors import DataInvalid, WbdcError
from wbdc.core.findings import Findings
from wbdc.serve.blend import apply_multipliers
from wbdc.serve.engine import Engine


def answer_calls(
    engine: Engine,
    contest: Competition,
    lines: Iterable[str],
    reply: Callable[[str], None],
    lifts: np.ndarray | None = None,
) -> int:
    """Answer items one by one as they come; return how many.

    A line is an item as in the annotations, with "frames": where its archive lies. The answer is
    {"id", <the contest's label_key>, "probability"}, or
    {"id", "error"} for a line that cannot be read: one bad call does not end the others.
    """
    count = 0
    for count, line in enumerate(lines, 1):
        name = None
        try:
            item = json.loads(line)
            name = item.get("id") if isinstance(item, dict) else None
            said = _answer(engine, contest, item, lifts)
        except (WbdcError, ValueError, RecursionError) as error:
            said = {"error": str(error)[:300]}
        reply(json.dumps({"id": name, **said}))
    return count


def _answer(engine: Engine, contest: Competition, item: object, lifts: np.ndarray | None) -> dict:
    if (
        not isinstance(item, dict)
        or not isinstance(item.get("id"), str)
        or not isinstance(item.get("frames"), str)
    ):
        raise DataInvalid(
            'a call is an object with "id" and "frames" (the path of its archive), both texts, and the fields of an annotation'
        )
    fields = contest.read_fields(item, Findings())
    answers = engine.answer([Video(item["id"], fields, None, Source(Path(item["frames"])))])
    row = (
        answers.probabilities if lifts is None else apply_multipliers(answers.probabilities, lifts)
    )
    best = int(row[0].argmax())
    return {contest.label_key: answers.classes[best], "probability": round(float(row[0, best]), 6)}
