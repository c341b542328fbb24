"""The README of a packed folder: how to run it, its members, pretrained weights and sizes."""

from pathlib import Path

from wbdc.competitions import JudgePaths
from wbdc.core.files import list_files
from wbdc.core.flatten import flatten_table
from wbdc.submit.pack.scripts import fill

TEMPLATE = """\
# Submission to @COMPETITION@

@COUNT@ in @PRECISION@.
@FACTS@
## Run

    # Install requirements.txt; needs Python 3.11 or newer
    ./init.sh

    # Predict the test split. DIR: data folder in the contest's layout; --help lists all options
    ./run.sh --data DIR --out result.csv

    # The same with the judge's paths: @DATA@, @RESULT@
    ./inference.sh

    # Train the models again from raw data
    ./init.sh source/requirements.txt
    DATA=DIR WORK=work ./train.sh

Inference downloads nothing and reads only this folder and the data. `manifest.json` holds the
SHA-256 of every file. `main.py` refuses code or models that differ from it; `wbdc verify FOLDER`
compares every file.

## Members

| member | weight | kit | initial weights | model.safetensors, SHA-256 |
|---|---|---|---|---|
@MEMBERS@

Each member contributes its weight divided by the sum of all weights: to the mean of the
probabilities, or, where `blend.json` has a `sharpness`, to their weighted geometric mean, whose
logarithm is multiplied by the sharpness before the rows are normalized. Where `blend.json` has
`class_weights`, each class has weights of its own, and these are their means.

## Pretrained weights

@PROVENANCE@
`weights.json` holds this table for programs. `sbom.json` (CycloneDX 1.5) lists packages and models.

## Sizes

| part | files | bytes |
|---|---|---|
@SIZES@
"""


PRECISION_NAMES = {
    "auto": "the precision that suits the machine: FP16 on a GPU, BF16 on a CPU with AMX or "
    "AVX512-BF16, otherwise FP32"
}


def package_readme(
    folder: Path,
    *,
    competition: str,
    precision: str,
    judge: JudgePaths,
    members: list[dict],
    facts: dict,
    provenance: str,
) -> str:
    """Return the README of a folder whose other files are in place.

    judge: the contest's paths. members: {"name", "weight", "kit", "weights":
    {part: description}, "sha256"}. facts: values to state, for example {"score": {"mean": 0.71,
    "interval": [0.70, 0.72]}}; nested tables become dotted names. provenance: table of pretrained
    weights in Markdown.
    """
    rows = [
        f"| {m['name']} | {m['weight']:g} | {m['kit'] or '–'} | {_initial_weights(m['weights'])} "
        f"| {m['sha256']} |"
        for m in members
    ]
    values = sorted(flatten_table(facts, lists=False).items())
    fact_lines = [f"* {name}: {_format_value(value)}" for name, value in values]
    return fill(
        TEMPLATE,
        competition=competition,
        precision=PRECISION_NAMES.get(precision, precision),
        data=judge.data,
        result=judge.result,
        members="\n".join(rows),
        provenance=provenance,
        sizes="\n".join(_size_rows(folder)),
        count="One model" if len(members) == 1 else f"A blend of {len(members)} models",
        facts="\n".join(["", *fact_lines, ""]) if fact_lines else "",
    )


def _initial_weights(weights: dict[str, str]) -> str:
    """Describe where the weights of each part of a model came from, in one table cell."""
    parts = [f"{part}: {description}" for part, description in sorted(weights.items())]
    return "; ".join(parts).replace("|", "/") or "–"


def _format_value(value: object) -> str:
    values = value if isinstance(value, (list, tuple)) else [value]
    return ", ".join(f"{v:.5g}" if isinstance(v, float) else str(v) for v in values)


def _size_rows(folder: Path) -> list[str]:
    """Add up the sizes of the files in each part: one table row per entry of the folder."""
    parts: dict[str, list[int]] = {}
    for path in list_files(folder):
        inner = path.relative_to(folder).parts
        part = inner[0] + ("/" if len(inner) > 1 else "")
        parts.setdefault(part, []).append(path.stat().st_size)
    return [f"| {name} | {len(sizes)} | {sum(sizes):,} |" for name, sizes in sorted(parts.items())]
