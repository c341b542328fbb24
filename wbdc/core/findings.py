"""Findings: what was wrong with the data, counted by code, each with the places where."""

from collections import Counter

MAX_EXAMPLES = 20  # places that a report names


class Findings:
    """Counts faults by code and keeps the first `keep` places of each."""

    def __init__(self, keep: int = MAX_EXAMPLES):
        self.keep = keep
        self.counts: Counter[str] = Counter()
        self.places: dict[str, list[str]] = {}

    def add(self, code: str, place: str) -> None:
        """Count one fault. code: such as "archive.empty"; place: the file, id or item, as strangers
        may have named it.
        """
        self.counts[code] += 1
        shown = self.places.setdefault(code, [])
        if len(shown) < self.keep:
            shown.append(
                "".join(c if c.isprintable() else "\ufffd" for c in place)
            )  # no escape sequence reaches a terminal

    def merge(self, report: dict) -> None:
        """Add what another process or an earlier shard reported."""
        for code, entry in report.items():
            self.counts[code] += entry["count"]
            shown = self.places.setdefault(code, [])
            shown.extend(entry["places"][: self.keep - len(shown)])

    def report(self, most: int | None = None) -> dict[str, dict]:
        """Return {code: {"count": int, "places": [str]}}, ordered by code, with at most `most`
        places of each.
        """
        return {
            code: {"count": self.counts[code], "places": self.places[code][:most]}
            for code in sorted(self.counts)
        }
