"""Two runs on their common rows: their scores, and whether the difference is noise."""

from wbdc.ensemble.report_entries import Evaluation
from wbdc.ensemble.shared_rows import shared_predictions
from wbdc.ensemble.support_report import f1_by_support
from wbdc.train.runs import Run


def compare_runs(run: Run, other_run: Run, *, draws: int = 1000, seed: int = 0) -> dict:
    """Score two runs on their common rows, and their difference by a paired bootstrap over videos.

    Returns {"rows", "scores": {name: components}, "difference", "low", "high", "verdict",
    "support": as `f1_by_support` returns it}.
    Raises UsageFault as `shared_predictions` does.
    """
    shared = shared_predictions([run, other_run])
    evaluation = Evaluation(run.contest, shared.truth, run.facts.classes, draws, seed)
    first, second = shared.members
    scores = {run.name: evaluation.score(first), other_run.name: evaluation.score(second)}
    codes = {run.name: first.argmax(1), other_run.name: second.argmax(1)}
    return {
        "rows": len(shared.truth),
        "scores": scores,
        **evaluation.gain(first, second).to_dict(),
        "support": f1_by_support(codes, shared.truth, len(run.facts.classes)),
    }
