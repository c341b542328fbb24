"""The objectives with which a student learns from teachers and from labels."""

from collections.abc import Sequence

from wbdc.core.plug import check_between


def distillation_objectives(
    objectives: Sequence[dict], name: str, *, share: float, temperature: float
) -> list[dict]:
    """Return the objectives of a kit, mixed with the loss to the teachers' probabilities.

    objectives: plug tables; their weights are multiplied by 1 - share. name: of the pseudo-labels.
    share: weight of the teachers, above 0 and below 1. temperature: of the comparison with them
    (Hinton et al., 2015). Raises UsageFault.
    """
    check_between("wbdc distill", 0.01, 0.99, share=share)
    check_between("wbdc distill", 0.1, 100, temperature=temperature)
    weighted = [
        {**table, "weight": round((1 - share) * table.get("weight", 1.0), 6)}
        for table in objectives
    ]
    teachers = {"use": "pseudo_labels", "name": name, "temperature": temperature, "weight": share}
    return [*weighted, teachers]
