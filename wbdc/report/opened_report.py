"""A report as a Python object: `wbdc.open_report`."""

from pathlib import Path

from wbdc.core.errors import UsageFault
from wbdc.report.build_report import build_report
from wbdc.report.page import save_page
from wbdc.report.report_options import DEFAULT_MISTAKES, ReportOptions
from wbdc.report.subjects import Subject
from wbdc.submit.check.manifest import MANIFEST_FILE

KINDS = {"runs": "run", "ensembles": "ensemble", "sweeps": "sweep", "prepared": "prepared"}


class OpenedReport:
    """The report of a run, an ensemble, a submission, a sweep or prepared data.

    numbers: plain values by section, as `wbdc report --json` prints them.
    """

    def __init__(self, subject: Subject, work: Path, options: ReportOptions):
        self.name = subject.name
        self._report = build_report(work, subject, options)

    @property
    def numbers(self) -> dict:
        """Plain values by section: {"kind", "name", "facts", ...}."""
        return self._report.numbers

    def save(self, path: str | Path, *, language: str = "en") -> Path:
        """Write the HTML page and return its path. language: "en" or "zh"."""
        save_page(self._report, Path(path), language)
        return Path(path)


def open_report_folder(
    folder: str | Path,
    *,
    draws: int = 1000,
    seed: int = 0,
    mistakes: int = DEFAULT_MISTAKES,
    pictures: bool = True,
) -> OpenedReport:
    """Collect the report of a folder: WORK/runs/NAME, WORK/ensembles/NAME, WORK/sweeps/NAME,
    WORK/prepared/HASH or a packed submission.

    draws, seed: of bootstrap intervals; mistakes: number in the error browser; pictures: whether
    the page holds frames. Raises UsageFault for another folder, IntegrityFault for damaged files.
    """
    path = Path(folder)
    options = ReportOptions(draws, seed, mistakes, pictures)
    if (path / MANIFEST_FILE).is_file():
        return OpenedReport(Subject("submission", path.resolve().name, path), path.parent, options)
    if path.parent.name not in KINDS or not path.is_dir():
        raise UsageFault(
            f"{path} is not the folder of a run, an ensemble, a sweep, prepared data or a "
            "submission, for example WORK/runs/NAME"
        )
    subject = Subject(KINDS[path.parent.name], path.name, path)
    return OpenedReport(subject, path.parent.parent, options)
