"""How well a run or an ensemble answers: classes, confusions, calibration and modalities."""

from wbdc.prepare.dataset import PreparedData
from wbdc.report.collect.calibration import calibration
from wbdc.report.collect.class_scores import class_scores
from wbdc.report.collect.held_out import HeldOut
from wbdc.report.collect.lost_points import costly_confusions
from wbdc.report.collect.modalities import accuracy_by_modalities, modality_names


def collect_answers(held_out: HeldOut, prepared: PreparedData) -> dict:
    """Return the scores of classes, confusions, calibration and modalities of predictions."""
    names = modality_names(prepared, held_out.ids)
    return {
        "videos": len(held_out.ids),
        "mistakes": len(held_out.mistakes),
        **class_scores(held_out),
        "confusions": costly_confusions(held_out),
        "calibration": {
            name: calibration(p, held_out.truth)
            for name, p in {"all": held_out.probabilities, **held_out.members}.items()
        },
        "modalities": accuracy_by_modalities(held_out, names),
    }
