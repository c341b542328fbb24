"""The arrays of linear members on disk."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from wbdc.core.errors import IntegrityFault
from wbdc.core.weights import load_weights
from wbdc.serve.member_files import MODEL_FILE, WEIGHTS_FILE

SCALE = "scale"  # (1,), of the decision values, learned by calibration
INTERCEPT = "intercept"  # (C,)
MAX_MISFIT_CHARACTERS = 200


def load_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Load the arrays of a member. Raises IntegrityFault."""
    path = folder / WEIGHTS_FILE
    try:
        return {name: tensor.numpy() for name, tensor in load_weights(path).items()}
    except (SafetensorError, OSError) as error:
        raise explain_misfit(folder, str(error)) from error


def explain_misfit(folder: Path, reason: str) -> IntegrityFault:
    """Return the error of arrays that cannot be used."""
    short = " ".join(reason.split())[:MAX_MISFIT_CHARACTERS]
    return IntegrityFault(
        f"{folder / WEIGHTS_FILE} does not fit {MODEL_FILE} beside it: {short}; train the fold"
        " again"
    )
