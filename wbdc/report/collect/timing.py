"""Time: the frontier of a budget's search, and the receipt of a submission's time check."""

from wbdc.submit.timing.bottleneck import COMPUTING_STAGES, READING_STAGES

TIMELINE_STAGES = (*READING_STAGES, *COMPUTING_STAGES)
START_STAGE = "start"  # of the process: imports and weights


def budget_facts(budget: dict) -> dict:
    """Return the frontier of a search within a time limit.

    Returns {"limit", "margin", "items", "frontier": [{"members", "precision", "seconds", "score",
    "is_chosen"}], "dropped": [{"name", "seconds", "gain"}]}.
    """
    frontier = [
        {
            "members": choice["members"],
            "precision": choice["precision"] + (", OpenVINO" if choice.get("openvino") else ""),
            "seconds": choice["seconds"],
            "score": choice["score"],
            "is_chosen": choice == budget["chosen"],
        }
        for choice in budget["frontier"]
    ]
    names = ("limit", "margin", "items", "dropped")
    return {name: budget[name] for name in names} | {"frontier": frontier}


def receipt_facts(receipt: dict) -> dict:
    """Return what the time check of a submission measured, and the projected final run.

    receipt: the content of latency.json. Returns {"verdict", "sentence", "items", "limit",
    "expected", "lower", "upper", "margin", "stages": from `projected_stages`, "measured":
    {stage: seconds}, "sample_videos", "largest_run", "machine", "memory_peaks", "warnings"}.
    """
    projection = receipt.get("projection") or {}
    names = ("verdict", "sentence", "items", "limit", "sample_videos", "largest_run", "machine")
    facts = {name: receipt.get(name) for name in names}
    facts |= {name: projection.get(name) for name in ("expected", "lower", "upper", "margin")}
    return facts | {
        "stages": projected_stages(receipt),
        "measured": receipt.get("stage_seconds") or {},
        "memory_peaks": receipt.get("memory_peaks") or {},
        "warnings": receipt.get("warnings") or [],
    }


def projected_stages(receipt: dict) -> list[dict]:
    """Divide the expected seconds of the final run among its stages, in the order of the work:
    [{"stage", "start", "seconds", "share"}].

    The start of the process takes the fixed seconds. Stages overlap in threads; their shares of the
    measured time, which add up to 1, divide the rest.
    """
    projection = receipt.get("projection") or {}
    expected = projection.get("expected")
    if not expected:
        return []
    fixed = projection["fixed"]
    parts = {START_STAGE: fixed}
    shares = receipt["stage_shares"]
    order = [stage for stage in TIMELINE_STAGES if stage in shares]
    order += [stage for stage in shares if stage not in TIMELINE_STAGES]
    parts |= {stage: shares[stage] * (expected - fixed) for stage in order}
    stages = []
    start = 0.0
    for stage, seconds in parts.items():
        if seconds > 0:
            stages.append(
                {"stage": stage, "start": start, "seconds": seconds, "share": seconds / expected}
            )
            start += seconds
    return stages
