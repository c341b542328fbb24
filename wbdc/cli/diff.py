"""wbdc diff: list the differences between two packed folders."""

from pathlib import Path

import click

from wbdc.cli import console, shared_options
from wbdc.submit.check import MAX_SAMPLE_VIDEOS, SampleOptions

MAX_SECTION_LINES = 10  # --json prints all of them


@click.command()
@click.argument("a", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the raw data: also compare the predictions for its test videos.",
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=MAX_SAMPLE_VIDEOS,
    show_default=True,
    help="Maximum number of test videos to predict.",
)
@shared_options.seed
@shared_options.device
@shared_options.threads
@shared_options.as_json
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
    """List the differences between the packed folders A and B.

    Both are verified first. Members, weights, kits, code, time check and score are compared; with
    --data, also the predictions for the same random test videos.

    \b
    Example:
      wbdc diff submissions/monday submissions/tuesday
      wbdc diff submissions/monday submissions/tuesday --data data/wechat2022
    """
    from wbdc.submit.check.diff import diff_packages, diff_predictions

    differences = diff_packages(a, b)
    predictions = None
    if data:
        predictions = diff_predictions(a, b, data, SampleOptions(sample, seed, device, threads))

    if as_json:
        return console.print_json({**differences, "predictions": predictions})
    for title, lines in _sections(differences).items():
        _print_section(title, lines)
    if differences["same"]:
        console.print_text("no difference")
    if predictions:
        console.print_text(_prediction_line(predictions))
    return None


def _sections(differences: dict) -> dict[str, list[str]]:
    """Describe each part of a difference, line by line."""
    # folds of one run have the same kit: one line for all of them
    kit_lines = [line for item in differences["kits"].items() for line in _kit_lines(*item)]
    score_first = sorted(
        differences["facts"].items(), key=lambda fact: "ensemble.score" not in fact[0]
    )
    contest = {name: differences[name] for name in ("competition", "precision")}
    return {
        "contest": _pair_lines({name: pair for name, pair in contest.items() if pair}),
        "members": _member_lines(differences["members"]),
        "weights": [_weights_line(*item) for item in differences["weights"].items()],
        "kits": list(dict.fromkeys(kit_lines)),
        "code": _file_lines(differences["code"]),
        "files": _file_lines(differences["files"]),
        "time check": _pair_lines(differences["time_check"]),
        "score": _pair_lines(dict(score_first)),
    }


def _print_section(title: str, lines: list[str]) -> None:
    if lines:
        console.print_text(title, "bold")
    for line in lines[:MAX_SECTION_LINES]:
        console.print_text(f"  {line}")
    if len(lines) > MAX_SECTION_LINES:
        console.print_text(f"  and {len(lines) - MAX_SECTION_LINES} more; --json lists them all")


def _member_lines(members: dict) -> list[str]:
    lines = [
        f"{change} {name}, weight {weight:g}"
        for change in ("added", "removed")
        for name, weight in members.get(change, {}).items()
    ]
    for name, changed in members.get("changed", {}).items():
        lines += [f"{name}: {line}" for line in _pair_lines(changed)]
    return lines


def _weights_line(name: str, weights: dict) -> str:
    counterpart = weights["counterpart"]
    names = name if counterpart == name else f"{name} and {counterpart}"
    unmatched = len(weights["unmatched_tensors"])
    return (
        f"{names}: {weights['changed_tensors']} of {weights['compared_tensors']} tensors differ, "
        f"by at most {weights['max_difference']:.3g}"
        + (f"; {unmatched} tensors have no counterpart" if unmatched else "")
    )


def _kit_lines(name: str, kit: dict) -> list[str]:
    """Describe the settings of a kit that differ."""
    run = name.split("/")[0]
    counterpart = kit["counterpart"].split("/")[0]
    runs = run if run == counterpart else f"{run} and {counterpart}"
    return [f"{runs}: {line}" for line in _pair_lines(kit["changed"])]


def _file_lines(files: dict[str, list[str]]) -> list[str]:
    return [f"{change} {name}" for change, names in files.items() for name in names]


def _prediction_line(predictions: dict) -> str:
    if predictions["max_difference"] is None:
        difference = "their classes differ"
    else:
        difference = f"probabilities differ by at most {predictions['max_difference']:.3g}"
    videos = f"{predictions['videos']:,} test videos"
    return f"{predictions['changed']:.2%} of the predictions for {videos} changed; {difference}."


def _pair_lines(pairs: dict[str, list]) -> list[str]:
    return [f"{name}: {' -> '.join(map(_format_value, pair))}" for name, pair in pairs.items()]


def _format_value(value: object) -> str:
    if value is None:
        return "absent"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
