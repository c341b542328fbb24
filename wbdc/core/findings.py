"""Findings: what is wrong with the data, counted by code, with the places where it occurs."""

from collections import Counter

MAX_EXAMPLES = 20  # places that a report names for each code


class Findings:
    """Counts findings by code and stores the first `max_places` places of each."""

    def __init__(self, max_places: int = MAX_EXAMPLES):
        self.max_places = max_places
        self.counts: Counter[str] = Counter()
        self.places: dict[str, list[str]] = {}

    def add(self, code: str, location: str) -> None:
        """Count one finding.

        code: for example "archive.empty". location: a file, an id or an item, as the data name it;
        characters that cannot be printed are replaced, so that no escape sequence reaches a
        terminal.
        """
        self.counts[code] += 1
        places = self.places.setdefault(code, [])
        if len(places) < self.max_places:
            places.append("".join(c if c.isprintable() else "\ufffd" for c in location))

    def merge(self, report: dict) -> None:
        """Add the report of another process or of an earlier shard."""
        for code, entry in report.items():
            self.counts[code] += entry["count"]
            places = self.places.setdefault(code, [])
            places.extend(entry["places"][: self.max_places - len(places)])

    def report(self, max_places: int | None = None) -> dict[str, dict]:
        """Return {code: {"count": int, "places": [str]}}, sorted by code, with at most `max_places`
        places for each code.
        """
        return {
            code: {"count": self.counts[code], "places": self.places[code][:max_places]}
            for code in sorted(self.counts)
        }
