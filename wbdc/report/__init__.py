"""Reports: one self-contained HTML page about a run, an ensemble, a submission, a sweep or data.

`collect/` gathers plain numbers, which `wbdc report --json` prints; `charts/` computes the geometry
of charts; `templates/` turns both into a page. Only the labeled split is shown.
"""
