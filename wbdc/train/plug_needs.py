"""What the plugs of a stage need: pixels, labels, or pseudo-labels. No plug of the package is
imported to find out.
"""

from pathlib import Path

from wbdc.core.plug_source import plug_attribute
from wbdc.train.kit_schema import PLUG_PACKAGES, Stage


def has_pixel_plugs(stage: Stage, folder: Path) -> bool:
    """Return whether a trick or an objective of a stage needs pixels. folder: where plug files
    lie.
    """
    plugs = [("trick", table["use"]) for table in stage.trick or []]
    plugs += [("objective", table["use"]) for table in stage.objective]
    return any(
        plug_attribute(PLUG_PACKAGES[kind], use, "needs_pixels", folder) for kind, use in plugs
    )


def label_readers(stage: Stage, folder: Path) -> list[tuple[str, str]]:
    """List the objectives and the sampler of a stage that need labels: their kinds and names."""
    plugs = [("objective", table["use"]) for table in stage.objective]
    plugs.append(("sampler", stage.choice("sampler")["use"]))
    return [
        (kind, use)
        for kind, use in plugs
        if plug_attribute(PLUG_PACKAGES[kind], use, "needs_labels", folder)
    ]


def reads_pseudo_labels(use: str, folder: Path | None = None) -> bool:
    """Return whether an objective reads the pseudo-labels that its setting `name` names."""
    return plug_attribute(PLUG_PACKAGES["objective"], use, "reads_pseudo_labels", folder)
