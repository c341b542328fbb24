"""What a submission is made of: a blend of runs, and the data that they were trained on."""

from dataclasses import dataclass
from pathlib import Path

from wbdc.competitions import Competition
from wbdc.prepare.dataset import PreparedData
from wbdc.serve.blend_file import Blend


@dataclass(frozen=True)
class SubmissionSource:
    """What a submission is made of.

    home: work folder of the runs. data: folder of the raw data. report: the ensemble's evaluation,
    {} for a single run.
    """

    home: Path
    blend: Blend
    prepared: PreparedData
    data: Path
    report: dict

    @property
    def contest(self) -> Competition:
        """The competition of the prepared data."""
        return self.prepared.contest
