"""Nested out-of-fold scores of several ways to weigh the members of an ensemble.

    python benchmarks/blend_weights.py --work work
    python benchmarks/blend_weights.py --work demo --folds 0,1 --json

It reads the finished runs of a work folder, as `wbdc ensemble` does, and writes nothing. Every fold
is answered with weights learned on the other folds. The last row is what `wbdc ensemble` does.
"""

from pathlib import Path

import click
import numpy as np

from wbdc import competitions
from wbdc.cli import console
from wbdc.core import plug
from wbdc.ensemble.blend_weights import fit_weights
from wbdc.ensemble.judge import bootstrap, gain, scorer
from wbdc.ensemble.store import choose, common
from wbdc.ensemble.weights import likelihoods, mixture
from wbdc.prepare.dataset import open_prepared
from wbdc.serve.blend import blend


def equal(given: np.ndarray) -> np.ndarray:
    """Return equal weights. given: (M, n) likelihoods of the truth; returns (M,)."""
    return np.full(len(given), 1 / len(given))


def best_member(given: np.ndarray) -> np.ndarray:
    """Return weight 1 for the member of the highest mean log-likelihood."""
    return np.eye(len(given))[np.log(given).mean(axis=1).argmax()]


def chosen(given: np.ndarray) -> np.ndarray:
    """Return the weights that `wbdc ensemble` ships."""
    return fit_weights(given).values


CHOSEN = "chosen (wbdc ensemble)"
RULES = {
    "best member of the other folds": best_member,
    "equal": equal,
    "maximum likelihood": mixture,
    CHOSEN: chosen,
}


def nested_blend(rule, members: np.ndarray, truth: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Blend each fold with the weights that a rule learns on the other folds.

    members: (M, n, C) float; truth: (n,) int; folds: (n,) names. Returns (n, C) float32.
    """
    given, blended = likelihoods(members, truth), np.empty(members.shape[1:], dtype=np.float32)
    for fold in np.unique(folds):
        held_out = folds == fold
        blended[held_out] = blend(members[:, held_out], rule(given[:, ~held_out]))

    return blended


@click.command()
@click.option("--run", "runs", multiple=True, help="A run; by default every finished one.")
@click.option("--folds", help="Only these folds, for example 0,1.")
@click.option("--draws", type=click.IntRange(100), default=1000, show_default=True)
@console.seed
@console.prepared
@console.work
@console.as_json
def main(
    runs: tuple[str, ...],
    folds: str | None,
    draws: int,
    seed: int,
    prepared: str | None,
    work: Path,
    as_json: bool,
) -> None:
    """Compare ways to weigh the runs of a work folder, each scored by nested cross-validation."""
    forms, _ = choose(work, runs, open_prepared(work, prepared))
    only = [fold.strip() for fold in (folds or "").split(",") if fold.strip()]
    shared = common([form.run for form in forms], only=only)
    if len(forms) < 2 or len(set(shared.folds)) < 2:
        raise click.UsageError("two runs with two common folds are needed")

    report = compare_rules(forms, shared, draws, seed)
    console.show(report) if as_json else print_report(report)


def compare_rules(forms: list, shared, draws: int, seed: int) -> dict:
    """Score every member and every rule; compare what is chosen with every other rule."""
    facts, names = forms[0].run.facts, [form.name for form in forms]
    classes, labels, folds = facts["classes"], shared.labels, np.array(shared.folds)
    contest = plug.build(competitions, {"use": facts["competition"]})
    truth = np.array([classes.index(label) for label in labels])

    members, scores = dict(zip(names, shared.members)), {}
    for name, p in members.items():
        scores[name] = contest.score(labels, answers(p, classes), classes)
    best = max(names, key=lambda name: scores[name]["mean"])
    blends = {f"best member in hindsight: {best}": members[best]}
    for name, rule in RULES.items():
        blends[name] = nested_blend(rule, shared.members, truth, folds)

    rules, gains = {}, {}
    scorers = {k: scorer(contest, labels, answers(p, classes), classes) for k, p in blends.items()}
    for name, p in blends.items():
        interval = bootstrap(scorers[name], len(labels), draws=draws, seed=seed)
        score = contest.score(labels, answers(p, classes), classes)
        rules[name] = {"score": score, "interval": list(interval)}
        if name != CHOSEN:
            more = gain(scorers[CHOSEN], scorers[name], len(labels), draws=draws, seed=seed)
            gains[name] = {**more._asdict(), "verdict": more.verdict}

    given, weights = likelihoods(shared.members, truth), {}
    for fold in [*np.unique(folds).tolist(), "all"]:
        fitted = fit_weights(given[:, folds != fold])
        kept = {names[i]: round(float(fitted.values[i]), 3) for i in fitted.kept}
        method = fitted.method if len(kept) > 1 else "one member"
        weights[fold] = {"method": method, "weights": kept}

    counts = {"videos": len(labels), "folds": sorted(set(shared.folds))}
    return {**counts, "members": scores, "rules": rules, "gains": gains, "chosen": weights}


def answers(probabilities: np.ndarray, classes: list[str]) -> list[str]:
    """Return the most probable class of each row."""
    return [classes[i] for i in probabilities.argmax(axis=1)]


def print_report(report: dict) -> None:
    """Print the table, the differences with their intervals, and the chosen weights."""
    names = console.components(*report["members"].values())
    rows = [(name, *(s[n] for n in names), "") for name, s in report["members"].items()]
    for rule, facts in report["rules"].items():
        low, high = facts["interval"]
        rows.append((rule, *(facts["score"][n] for n in names), f"{low:.3f} – {high:.3f}"))
    title = f"{report['videos']:,} videos of folds {', '.join(report['folds'])}"
    console.table(title, ("", *names, "95 % interval"), rows)

    for rule, more in report["gains"].items():
        bounds = f"[{more['low']:+.4f}, {more['high']:+.4f}]"
        console.tell(f"Chosen over {rule}: {more['difference']:+.4f} {bounds}, {more['verdict']}.")
    for fold, facts in report["chosen"].items():
        weights = ", ".join(f"{name} {weight:.3f}" for name, weight in facts["weights"].items())
        where = "on all videos" if fold == "all" else f"for fold {fold}"
        console.tell(f"Chosen {where}: {facts['method']} ({weights}).")


if __name__ == "__main__":
    main()
