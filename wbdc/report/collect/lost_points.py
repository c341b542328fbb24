"""Lost points: how much the contest's score would rise if some mistakes were right."""

from collections.abc import Sequence

import numpy as np

from wbdc.report.collect.held_out import HeldOut

MAX_SCORED_PAIRS = 60  # pairs of classes whose exact gain is computed
MAX_LISTED_PAIRS = 30


def gain_if_fixed(held_out: HeldOut, rows: Sequence[int] | np.ndarray) -> float:
    """Return by how much the mean of the score rises when the predictions of `rows` are right."""
    if held_out.contest.needs_probabilities:
        probabilities = held_out.probabilities.copy()
        probabilities[rows] = 0
        probabilities[rows, held_out.truth[rows]] = 1
        return held_out.score(probabilities)["mean"] - held_out.mean_score
    codes = held_out.predicted.copy()
    codes[rows] = held_out.truth[rows]
    predictions = [held_out.classes[code] for code in codes]
    score = held_out.contest.score(held_out.labels, predictions, held_out.classes)
    return score["mean"] - held_out.mean_score


def macro_f1_gains(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return by how much the mean F1 over classes rises when one mistake is right, for each row:
    (n,) float64, 0 where the prediction is right.

    A fixed mistake adds a hit of its true class, whose predictions grow by one, and takes a
    prediction from the class that was predicted.
    """
    hits = np.bincount(truth[predicted == truth], minlength=classes)
    totals = np.bincount(truth, minlength=classes) + np.bincount(predicted, minlength=classes)
    f1 = 2 * hits / np.maximum(totals, 1)
    true_f1 = 2 * (hits + 1) / (totals + 1)
    wrong_f1 = 2 * hits / np.maximum(totals - 1, 1)
    gains = (true_f1[truth] - f1[truth] + wrong_f1[predicted] - f1[predicted]) / classes
    return np.where(predicted == truth, 0.0, gains)


def estimated_gains(held_out: HeldOut) -> np.ndarray:
    """Return by how much a score would rise if one mistake were right, for each row: (n,) float64.

    It ranks mistakes before the contest scores some of them: the gain of macro F1, or, where the
    score depends on probabilities, of the log-likelihood.
    """
    truth = held_out.truth
    if not held_out.contest.needs_probabilities:
        return macro_f1_gains(truth, held_out.predicted, len(held_out.classes))
    likelihoods = held_out.probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return -np.log(likelihoods.clip(np.finfo(np.float64).tiny))


def costly_confusions(held_out: HeldOut) -> list[dict]:
    """Return the pairs of classes whose mistakes cost most points, the costliest first.

    Each is {"true", "predicted", "videos", "gain"}; gain: of the contest's score, if all videos of
    the pair were right. The pairs are those with the highest estimated gain.
    """
    truth, predicted = held_out.truth, held_out.predicted
    estimates = estimated_gains(held_out)
    rows_of: dict[tuple[int, int], list[int]] = {}
    for row in held_out.mistakes.tolist():
        rows_of.setdefault((int(truth[row]), int(predicted[row])), []).append(row)

    ranked = sorted(rows_of.items(), key=lambda item: (-estimates[item[1]].sum(), item[0]))
    pairs = [
        {
            "true": held_out.classes[pair[0]],
            "predicted": held_out.classes[pair[1]],
            "videos": len(rows),
            "gain": gain_if_fixed(held_out, rows),
        }
        for pair, rows in ranked[:MAX_SCORED_PAIRS]
    ]
    pairs.sort(key=lambda pair: (-pair["gain"], pair["true"], pair["predicted"]))
    return pairs[:MAX_LISTED_PAIRS]


def costly_mistakes(held_out: HeldOut, count: int) -> list[tuple[int, float]]:
    """Return the mistakes that cost most points, each fixed alone: [(row, points)], the costliest
    first; among equal ones, first the video whose wrong class is most probable.
    """
    truth, predicted = held_out.truth, held_out.predicted
    estimates = estimated_gains(held_out)
    confidence = held_out.probabilities.max(1)
    ranked = sorted(
        held_out.mistakes.tolist(), key=lambda row: (-estimates[row], -confidence[row], row)
    )
    gains: dict[object, float] = {}
    scored = []
    for row in ranked[:count]:
        # a score of classes alone depends on the pair, one of probabilities on the video
        needs_row = held_out.contest.needs_probabilities
        key = row if needs_row else (int(truth[row]), int(predicted[row]))
        if key not in gains:
            gains[key] = gain_if_fixed(held_out, [row])
        scored.append((row, gains[key]))
    return sorted(scored, key=lambda item: (-item[1], -confidence[item[0]], item[0]))
