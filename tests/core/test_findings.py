"""Findings: counts, stored places, merging, characters that cannot be printed."""

from wbdc.core.findings import Findings


def test_all_findings_are_counted_and_some_places_stored():
    findings, merged = Findings(max_places=3), Findings(max_places=3)
    for i in range(5):
        findings.add("b", f"place {i}")
    merged.add("a", "x")
    merged.merge(findings.report())
    merged.merge(findings.report())
    assert merged.report() == {
        "a": {"count": 1, "places": ["x"]},
        "b": {"count": 10, "places": ["place 0", "place 1", "place 2"]},
    }
    assert list(merged.report()) == ["a", "b"]


def test_escape_sequences_are_replaced():
    findings = Findings()
    findings.add("a", "帧 1\x1b[31m\n\udcff.jpg")
    assert findings.report()["a"]["places"] == ["帧 1\ufffd[31m\ufffd\ufffd.jpg"]
