"""Nested out-of-fold scores of several rules for the blend weights of an ensemble.

    python benchmarks/blend_weights.py --work work
    python benchmarks/blend_weights.py --work demo --folds 0,1 --json
    python benchmarks/blend_weights.py --work work --videos 50,100,200,400

It reads the finished runs of a work folder, as `wbdc ensemble` does, and writes nothing. Each fold
is predicted with weights that were learned on the other folds. The last row is the rule of `wbdc
ensemble`. With --videos, weights are also learned on so many random videos and scored on all
others, which has less noise: the table shows means over random splits.
"""

from pathlib import Path

import click
import numpy as np

from wbdc import competitions
from wbdc.cli import console, shared_options
from wbdc.core import plug
from wbdc.ensemble.blend_weights import fit_weights
from wbdc.ensemble.bootstrap import bootstrap_interval, competition_scorer, paired_gain
from wbdc.ensemble.likelihood_weights import mixture_weights, true_class_likelihoods
from wbdc.ensemble.member_selection import select_members
from wbdc.ensemble.shared_rows import shared_predictions
from wbdc.prepare.dataset import open_prepared
from wbdc.serve.blend import blend_probabilities


def equal_weights(likelihoods: np.ndarray) -> np.ndarray:
    """Return equal weights (M,). likelihoods: (M, n) of the true classes."""
    return np.full(len(likelihoods), 1 / len(likelihoods))


def best_member_weights(likelihoods: np.ndarray) -> np.ndarray:
    """Return weight 1 for the member with the highest mean log-likelihood."""
    return np.eye(len(likelihoods))[np.log(likelihoods).mean(axis=1).argmax()]


def shipped_weights(likelihoods: np.ndarray) -> np.ndarray:
    """Return the weights that `wbdc ensemble` uses."""
    return fit_weights(likelihoods).values


RANDOM_SPLITS = 40  # random splits for each number of --videos
SHIPPED_RULE = "wbdc ensemble"
RULES = {
    "best member of the other folds": best_member_weights,
    "equal": equal_weights,
    "maximum likelihood": mixture_weights,
    SHIPPED_RULE: shipped_weights,
}


def nested_blend(rule, members: np.ndarray, truth: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Blend each fold with the weights that a rule learns on the other folds.

    members: (M, n, C) float; truth: (n,) int; folds: (n,) names. Returns (n, C) float32.
    """
    likelihoods = true_class_likelihoods(members, truth)
    blended = np.empty(members.shape[1:], dtype=np.float32)
    for fold in np.unique(folds):
        is_held_out = folds == fold
        weights = rule(likelihoods[:, ~is_held_out])
        blended[is_held_out] = blend_probabilities(members[:, is_held_out], weights)

    return blended


@click.command()
@click.option("--run", "runs", multiple=True, help="A run; by default all finished runs.")
@click.option("--folds", help="Only these folds, for example 0,1.")
@click.option("--videos", help="Also learn on so many random videos, for example 50,100,200.")
@click.option("--draws", type=click.IntRange(100), default=1000, show_default=True)
@shared_options.seed
@shared_options.prepared
@shared_options.work
@shared_options.as_json
def main(
    runs: tuple[str, ...],
    folds: str | None,
    videos: str | None,
    draws: int,
    seed: int,
    prepared: str | None,
    work: Path,
    as_json: bool,
) -> None:
    """Compare rules for blend weights on the runs of a work folder by nested cross-validation."""
    variants, _ = select_members(work, runs, open_prepared(work, prepared))
    only = [fold.strip() for fold in (folds or "").split(",") if fold.strip()]
    shared = shared_predictions([variant.run for variant in variants], only_folds=only)
    if len(variants) < 2 or len(set(shared.folds)) < 2:
        raise click.UsageError("two runs with two common folds are needed")

    sizes = [int(size) for size in (videos or "").split(",") if size.strip()]
    if wrong := [size for size in sizes if not 1 <= size < len(shared.truth)]:
        raise click.UsageError(
            f"--videos {wrong[0]} does not fit; use 1 to {len(shared.truth) - 1}"
        )

    report = compare_rules(variants, shared, draws, seed)
    if sizes:
        splits = {str(size): compare_on_splits(variants, shared, size, seed) for size in sizes}
        report["splits"] = splits
    console.print_json(report) if as_json else print_report(report)


def compare_rules(variants: list, shared, draws: int, seed: int) -> dict:
    """Score every member and every rule; compare the rule of wbdc with every other rule."""
    facts, names = variants[0].run.facts, [variant.name for variant in variants]
    classes, truth, folds = facts.classes, shared.truth, shared.folds
    labels = [classes[code] for code in truth]
    contest = plug.build_plug(competitions, {"use": facts.competition})

    members, scores = dict(zip(names, shared.members, strict=True)), {}
    for name, p in members.items():
        scores[name] = contest.score(labels, predicted_ids(p, classes), classes)
    best = max(names, key=lambda name: scores[name]["mean"])
    blends = {f"best member in hindsight: {best}": members[best]}
    for name, rule in RULES.items():
        blends[name] = nested_blend(rule, shared.members, truth, folds)

    rules, gains = {}, {}
    scorers = {
        k: competition_scorer(contest, truth, p.argmax(axis=1), classes) for k, p in blends.items()
    }
    for name, p in blends.items():
        interval = bootstrap_interval(scorers[name], len(labels), draws=draws, seed=seed)
        score = contest.score(labels, predicted_ids(p, classes), classes)
        rules[name] = {"score": score, "interval": list(interval)}
        if name != SHIPPED_RULE:
            gain = paired_gain(
                scorers[SHIPPED_RULE], scorers[name], len(labels), draws=draws, seed=seed
            )
            gains[name] = {**gain._asdict(), "verdict": gain.verdict}

    likelihoods, weights = true_class_likelihoods(shared.members, truth), {}
    for fold in [*np.unique(folds).tolist(), "all"]:
        fitted = fit_weights(likelihoods[:, folds != fold])
        weights_by_name = {names[i]: round(float(fitted.values[i]), 3) for i in fitted.members}
        method = fitted.method if len(weights_by_name) > 1 else "one member"
        weights[fold] = {"method": method, "weights": weights_by_name}

    counts = {"videos": len(labels), "folds": np.unique(folds).tolist()}
    return {**counts, "members": scores, "rules": rules, "gains": gains, "weights": weights}


def compare_on_splits(variants: list, shared, size: int, seed: int) -> dict:
    """Learn on `size` random videos, score on the others: {rule: [mean, its standard error]}.

    The standard error is that of the difference from the rule of wbdc, over the random splits.
    """
    facts, random = variants[0].run.facts, np.random.default_rng(seed)
    classes, truth = facts.classes, shared.truth
    labels = np.array([classes[code] for code in truth])
    contest = plug.build_plug(competitions, {"use": facts.competition})
    likelihoods = true_class_likelihoods(shared.members, truth)
    means = {name: [] for name in RULES}

    for _ in range(RANDOM_SPLITS):
        order = random.permutation(len(labels))
        train, test = order[:size], order[size:]
        for name, rule in RULES.items():
            p = blend_probabilities(shared.members[:, test], rule(likelihoods[:, train]))
            score = contest.score(labels[test].tolist(), predicted_ids(p, classes), classes)
            means[name].append(score["mean"])

    result = {}
    for name, values in means.items():
        difference = np.array(values) - means[SHIPPED_RULE]
        result[name] = [
            float(np.mean(values)),
            float(difference.std(ddof=1) / np.sqrt(RANDOM_SPLITS)),
        ]
    return result


def predicted_ids(probabilities: np.ndarray, classes: list[str]) -> list[str]:
    """Return the most probable class of each row."""
    return [classes[i] for i in probabilities.argmax(axis=1)]


def print_report(report: dict) -> None:
    """Print the table, the differences with their intervals, and the chosen weights."""
    names = console.component_names(*report["members"].values())
    rows = [(name, *(s[n] for n in names), "") for name, s in report["members"].items()]
    for rule, facts in report["rules"].items():
        low, high = facts["interval"]
        rows.append((rule, *(facts["score"][n] for n in names), f"{low:.3f} – {high:.3f}"))
    title = f"{report['videos']:,} videos of folds {', '.join(report['folds'])}"
    console.print_table(title, ("", *names, "95% interval"), rows)

    for rule, gain in report["gains"].items():
        interval = f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
        console.print_text(
            f"{SHIPPED_RULE} over {rule}: {gain['difference']:+.4f} {interval}, {gain['verdict']}."
        )
    for fold, facts in report["weights"].items():
        weights = ", ".join(f"{name} {weight:.3f}" for name, weight in facts["weights"].items())
        target = "all videos" if fold == "all" else f"fold {fold}"
        console.print_text(f"Weights for {target}: {facts['method']} ({weights}).")

    if "splits" in report:
        rows = []
        for size, rules in report["splits"].items():
            for rule, (mean, error) in rules.items():
                lead = (
                    f"{rules[SHIPPED_RULE][0] - mean:+.4f} ± {error:.4f}"
                    if rule != SHIPPED_RULE
                    else ""
                )
                rows.append((f"{int(size):,}", rule, mean, lead))
        title = f"Learned on random videos, scored on the others (mean of {RANDOM_SPLITS} splits)"
        console.print_table(title, ("videos", "rule", "mean", f"lead of {SHIPPED_RULE}"), rows)


if __name__ == "__main__":
    main()
