"""The file of suggested labels, which `wbdc prepare --corrections` reads after a review."""

import csv
import io

from wbdc.prepare.corrections import CORRECTION_COLUMNS

REVIEW_COLUMNS = ("given", "given_probability", "suggested_probability")  # ignored when it is read


def corrections_csv(errors: list[dict]) -> str:
    """Return likely label errors as CSV: the id, the suggested label, and what it replaces.

    errors: from `label_errors`.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*CORRECTION_COLUMNS, *REVIEW_COLUMNS])
    for error in errors:
        numbers = (f"{error[name]:.4f}" for name in REVIEW_COLUMNS[1:])
        writer.writerow([error["id"], error["suggested"], error["given"], *numbers])
    return stream.getvalue()
