"""The pseudo-labels that a stage of a kit names."""

from pathlib import Path

from wbdc.prepare.dataset import PreparedData
from wbdc.train.kit import Kit
from wbdc.train.kit_schema import Stage
from wbdc.train.plug_needs import reads_pseudo_labels
from wbdc.train.pseudo.pseudo_set import PseudoSet, open_pseudo
from wbdc.train.runs import RunFacts, identify_run


def pseudo_names(stage: Stage, folder: Path) -> list[str]:
    """List the names of the pseudo-labels that a stage reads. folder: where plug files lie."""
    names = [stage.pseudo["name"]] if stage.pseudo else []
    for table in stage.objective:
        if reads_pseudo_labels(table["use"], folder):
            names.append(table.get("name", ""))
    return sorted({name for name in names if name})


def open_named_sets(
    work: Path, stage: Stage, folder: Path, prepared: PreparedData
) -> dict[str, PseudoSet]:
    """Open the pseudo-labels that a stage reads, by their names. Raises as `open_pseudo` does."""
    names = pseudo_names(stage, folder)
    return {name: open_pseudo(work, name, prepared) for name in names}


def identify_pretraining(
    work: Path, kit: Kit, prepared: PreparedData, seed: int
) -> tuple[str, RunFacts]:
    """Return the name and facts of the run that `wbdc pretrain` with this kit makes, finished or
    not.
    """
    sets = open_named_sets(work, kit.stage("pretrain"), kit.folder, prepared)
    hashes = {name: opened.hash for name, opened in sets.items()}
    options = {"seed": seed, "without": None, "source": None, "pseudo": hashes}
    return identify_run("pretrain", kit, prepared, **options)
