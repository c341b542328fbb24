"""The README of a packed folder: what it holds, what it scored, where its weights come from, how to
run it.
"""

from pathlib import Path

from wbdc.core.files import list_files
from wbdc.submit.pack.scripts import fill

TEXT = """\
# Submission to @COMPETITION@

@COUNT@ in @PRECISION@.
@FACTS@
## Run

    ./init.sh                                  # Python 3.11 or newer; installs requirements.txt
    ./run.sh --data DIR --out result.csv       # DIR holds the data as the contest gives them; --help lists the rest
    ./inference.sh                             # the same with the judge's paths: @DATA@, @RESULT@
    ./init.sh source/requirements.txt && DATA=DIR WORK=work ./train.sh     # trains the models again from the raw data

Nothing is downloaded and nothing outside this folder is read but the data. `manifest.json` holds the SHA-256 of every file;
a run refuses code or models that differ, and `wbdc verify FOLDER` compares everything.

## Members

| member | weight | kit | first weights | model.safetensors, SHA-256 |
|---|---|---|---|---|
@MEMBERS@

The share of a member is its weight divided by the sum of all weights.

## Pretrained weights

@LEDGER@
`sbom.json` (CycloneDX 1.5) lists packages and models, `weights.json` this table for machines.

## Sizes

| part | files | bytes |
|---|---|---|
@SIZES@
"""


PRECISIONS = {
    "auto": "the precision that suits the machine: FP16 on a GPU, BF16 on a CPU with AMX or AVX512-BF16, else FP32"
}


def write_readme(
    folder: Path,
    *,
    competition: str,
    precision: str,
    judge: dict[str, str],
    members: list[dict],
    facts: dict,
    ledger: str,
) -> str:
    """Write the README of a folder whose other files are in place.

    members: {"name", "weight", "kit", "weights": {part: words}, "sha256"}. facts: what is to be
    told, such as {"commit": "83c5ac9",
    "score": {"mean": .71, "interval": [.70, .72]}}; nested tables become dotted names. ledger: the
    table of pretrained weights.
    """
    rows = [
        f"| {m['name']} | {m['weight']:g} | {m['kit'] or '–'} | {_words(m['weights'])} | {m['sha256']} |"
        for m in members
    ]
    told = [f"* {name}: {value}" for name, value in _flat(facts)]
    return fill(
        TEXT,
        competition=competition,
        precision=PRECISIONS.get(precision, precision),
        data=judge["data"],
        result=judge["result"],
        members="\n".join(rows),
        ledger=ledger,
        sizes="\n".join(_sizes(folder)),
        count="One model" if len(members) == 1 else f"A blend of {len(members)} models",
        facts="\n".join(["", *told, ""]) if told else "",
    )


def _words(weights: dict[str, str]) -> str:
    return (
        "; ".join(f"{part}: {said}" for part, said in sorted(weights.items())).replace("|", "/")
        or "–"
    )


def _flat(facts: dict, prefix: str = "") -> list[tuple[str, str]]:
    """Flatten tables: {"score": {"mean": .71}} -> [("score.mean", "0.71")], sorted by name."""
    found = []
    for name, value in sorted(facts.items()):
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        else:
            values = value if isinstance(value, (list, tuple)) else [value]
            found.append(
                (
                    f"{prefix}{name}",
                    ", ".join(f"{v:.5g}" if isinstance(v, float) else str(v) for v in values),
                )
            )
    return found


def _sizes(folder: Path) -> list[str]:
    """Add up the files of each part: one table row per entry of the folder."""
    parts: dict[str, list[int]] = {}
    for path in list_files(folder):
        inner = path.relative_to(folder).parts
        parts.setdefault(inner[0] + ("/" if len(inner) > 1 else ""), []).append(path.stat().st_size)
    return [f"| {name} | {len(sizes)} | {sum(sizes):,} |" for name, sizes in sorted(parts.items())]
