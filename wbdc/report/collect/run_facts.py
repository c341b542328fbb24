"""What identifies a run, for the head of its report."""

from wbdc.train.runs import Run


def run_facts(run: Run) -> dict:
    """Return what identifies a run, and the command that trained its first fold."""
    folds = run.folds()
    facts = run.facts
    return {
        "kit": facts.kit,
        "competition": facts.competition,
        "data": facts.data,
        "seed": facts.seed,
        "classes": len(facts.classes),
        "folds": sorted(folds),
        "without": facts.without,
        "source": facts.source,
        "pseudo": sorted(facts.pseudo),
        "command": next(iter(folds.values())).get("command") if folds else None,
    }
