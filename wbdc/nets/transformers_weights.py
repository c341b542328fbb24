"""Weights that transformers saved, by the names of its model, also those of older versions."""

from collections.abc import Collection
from pathlib import Path

from torch import nn

from wbdc.core.errors import MAX_LISTED_NAMES, IntegrityFault


def load_saved_model(
    model_class: type, folder: Path, expected: Collection[str] | None = None
) -> tuple[nn.Module, list[str]]:
    """Load a model from the folder that `save_pretrained` wrote, strictly.

    model_class: of transformers, of the part that is loaded; the folder may hold the whole model,
    for example with a classifier. expected: names of the tensors that the folder must hold; None:
    all of the model. Returns the model and the sorted names of the tensors that are not used.
    Raises IntegrityFault, which names up to ten tensors, when one is missing or has another shape.
    """
    loaded, report = model_class.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True,
        ignore_mismatched_sizes=True,
    )  # fmt: skip
    names = set(loaded.state_dict() if expected is None else expected)
    missing = sorted(names & set(report["missing_keys"]))
    other_shapes = sorted(names & {entry[0] for entry in report["mismatched_keys"]})
    for faulty, problem in ((missing, "lacks"), (other_shapes, "holds in another shape")):
        if faulty:
            listed = ", ".join(faulty[:MAX_LISTED_NAMES])
            raise IntegrityFault(
                f"{folder} {problem} {len(faulty)} of {len(names)} tensors: {listed}"
            )
    return loaded, sorted(report["unexpected_keys"])
