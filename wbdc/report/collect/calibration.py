"""Calibration: whether videos predicted with 80 % are right in 80 % of cases."""

import numpy as np

CALIBRATION_BINS = 10


def calibration(probabilities: np.ndarray, truth: np.ndarray) -> dict:
    """Compare the confidence of predictions with their accuracy, in bins of equal width.

    probabilities: (n, C); truth: (n,) int class codes. Returns {"bins": [{"low", "high", "videos",
    "confidence", "accuracy"}], without empty ones, "error": the expected calibration error, the
    mean gap weighted by videos (Guo et al. 2017, "On Calibration of Modern Neural Networks"),
    "confidence", "accuracy": over all videos, "log_likelihood": of the true classes}.
    """
    confidence = probabilities.max(1).astype(np.float64)
    is_right = probabilities.argmax(1) == truth
    numbers = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    bins = [
        {
            "low": number / CALIBRATION_BINS,
            "high": (number + 1) / CALIBRATION_BINS,
            "videos": int(is_in.sum()),
            "confidence": float(confidence[is_in].mean()),
            "accuracy": float(is_right[is_in].mean()),
        }
        for number in range(CALIBRATION_BINS)
        if (is_in := numbers == number).any()
    ]
    gaps = [one["videos"] * abs(one["confidence"] - one["accuracy"]) for one in bins]
    true_probabilities = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    smallest = np.finfo(np.float64).tiny
    return {
        "bins": bins,
        "error": sum(gaps) / len(truth),
        "confidence": float(confidence.mean()),
        "accuracy": float(is_right.mean()),
        "log_likelihood": float(np.log(true_probabilities.clip(smallest)).mean()),
    }
