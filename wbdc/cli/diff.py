"""wbdc diff: what is other in one packed folder than in another?"""

from pathlib import Path

import click

from wbdc.cli import console

MOST_LINES = 10  # of one kind; --json gives them all


@click.command()
@click.argument("a", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Raw data folder: both also answer its test videos.",
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Most test videos to answer.",
)
@console.seed
@console.device
@console.threads
@console.as_json
def diff(
    a: Path,
    b: Path,
    data: Path | None,
    sample: int,
    seed: int,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Say what differs between the packed folders A and B.

    Both are verified first. Members, weights, kits, code, time check and score are compared; with
    --data, the answers to the same random test videos too.

    \b
    Example:
      wbdc diff submissions/monday submissions/tuesday
      wbdc diff submissions/monday submissions/tuesday --data data/wechat2022
    """
    from wbdc.submit.check.diff import diff_packages, diff_predictions

    found = diff_packages(a, b)
    asked = (
        diff_predictions(a, b, data, most=sample, seed=seed, device=device, threads=threads)
        if data
        else None
    )
    if as_json:
        return console.print_json({**found, "answers": asked})
    for title, lines in _sections(found).items():
        _tell(title, lines)
    if found["same"]:
        console.print_text("no difference")
    if asked:
        console.print_text(_answered(asked))


def _sections(found: dict) -> dict[str, list[str]]:
    """Word each part of a difference, line by line."""
    members = found["members"] or {"added": {}, "removed": {}, "changed": {}}
    return {
        "contest": [
            f"{name}: {_arrow(found[name])}" for name in ("competition", "precision") if found[name]
        ],
        "members": [
            f"{word} {name}, weight {weight:g}"
            for word in ("added", "removed")
            for name, weight in members[word].items()
        ]
        + [
            f"{name}: {key}: {_arrow(pair)}"
            for name, changed in members["changed"].items()
            for key, pair in changed.items()
        ],
        "weights": [_weights(name, entry) for name, entry in found["weights"].items()],
        "kits": list(
            dict.fromkeys(
                line for name, entry in found["kits"].items() for line in _kit(name, entry)
            )
        ),
        **{
            kind: [f"{word} {name}" for word, names in found[kind].items() for name in names]
            for kind in ("code", "files")
        },
        "time check": [f"{name}: {_arrow(pair)}" for name, pair in found["time"].items()],
        "score": [
            f"{name}: {_arrow(pair)}"
            for name, pair in sorted(
                found["facts"].items(), key=lambda item: "ensemble.score" not in item[0]
            )
        ],
    }


def _tell(title: str, lines: list[str]) -> None:
    if lines:
        console.print_text(title, "bold")
    for line in lines[:MOST_LINES]:
        console.print_text(f"  {line}")
    if len(lines) > MOST_LINES:
        console.print_text(f"  and {len(lines) - MOST_LINES} more; --json lists them all")


def _weights(name: str, entry: dict) -> str:
    other = f" and {entry['with']}" if entry["with"] != name else ""
    alone = f"; {len(entry['alone'])} tensors have no counterpart" if entry["alone"] else ""
    return f"{name}{other}: {entry['tensors']} of {entry['of']} tensors differ, by at most {entry['largest']:.3g}{alone}"


def _kit(name: str, entry: dict) -> list[str]:
    """Word the settings of a kit that differ, the same for every fold of a run."""
    run, other = name.split("/")[0], entry["with"].split("/")[0]
    runs = run if run == other else f"{run} and {other}"
    return [f"{runs}: {key}: {_arrow(pair)}" for key, pair in entry["changed"].items()]


def _answered(asked: dict) -> str:
    largest = (
        "their classes differ"
        if asked["largest"] is None
        else f"probabilities differ by at most {asked['largest']:.3g}"
    )
    return f"{asked['changed']:.2%} of the answers to {asked['videos']:,} test videos changed; {largest}."


def _arrow(pair: list) -> str:
    return " -> ".join(
        "absent" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
        for value in pair
    )
