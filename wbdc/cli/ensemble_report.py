"""What `wbdc ensemble` prints: scores, weights, gains, and the ensembles within a limit."""

from collections.abc import Sequence

from wbdc.cli import console


def print_report(report: dict, name: str, order: Sequence[str] = ()) -> None:
    """Print the scores of members and ensemble, the weights and the gain.

    order: of the components of the score.
    """
    names = console.component_names(report["ensemble"]["score"], order=order)
    dropped = [member["name"] for member in report["dropped"]]
    rows = []
    for member, entry in report["members"].items():
        weight = "dropped" if member in dropped else report["weights"][member]
        rows.append((member, weight, *_score_cells(entry, names)))
    rows.append((name, "", *_score_cells(report["ensemble"], names)))

    title = f"{report['rows']:,} videos of folds {', '.join(report['folds'])}"
    columns = ("out of fold", "weight", *names, "95 % interval", "official")
    console.print_table(title, columns, rows)
    print_weights(report)
    if "budget" in report:
        _print_budget(report["budget"])
    _print_bands(report["bands"], list(report["members"]))
    _print_class_priors(report["class_priors"])
    print_support(report["support"])
    console.print_text(f"Over {report['best']}: {_gain_text(report['gain'])}.")
    if optimistic := report.get("optimistic"):
        console.print_text(
            f"Scores of {', '.join(optimistic)} are optimistic, and so may be their weights: the "
            "held-out videos also selected the weights of their models."
        )


def print_weights(report: dict) -> None:
    """Print how the weights were chosen, and which members were dropped."""
    weighting = report["weighting"]
    trials = ", ".join(f"{method} {mean:.3f}" for method, mean in weighting["trials"].items())
    if trials and not report["geometric"]["used"]:
        console.print_text(
            f"Weights: {weighting['method']}. Log-likelihood of a held-out video: {trials}."
        )
    _print_geometric(report["geometric"])
    for member in report["dropped"]:
        console.print_text(
            f"Dropped {member['name']}: {member['reason']} ({member['weight']:.2g})."
        )


def _print_geometric(geometric: dict) -> None:
    """Print the gain of a geometric mean over the arithmetic one, or why there is none."""
    if "gain" not in geometric:
        console.print_text(f"No geometric mean: {geometric['reason']}.")
        return
    decision = "used" if geometric["used"] else "not used"
    trials = ", ".join(f"{mean} {value:.3f}" for mean, value in geometric["trials"].items())
    console.print_text(
        f"Geometric mean: {_gain_text(geometric['gain'])}; log-likelihood of a held-out video: "
        f"{trials}, so {decision}."
    )


def _print_bands(bands: dict, members: list[str]) -> None:
    """Print the gain of weights by class support and the weights, or why there are none."""
    if "gain" not in bands:
        console.print_text(f"No weights by class support: {bands['reason']}.")
        return
    decision = "used" if bands["used"] else "not used"
    console.print_text(f"Weights by class support: {_gain_text(bands['gain'])}, so {decision}.")
    if bands["used"]:
        rows = [(name, *bands["weights"][name]) for name in members]
        columns = [f"{name} videos per class" for name in bands["names"]]
        console.print_table("Weights by class support", ("member", *columns), rows)


def print_support(support: dict) -> None:
    """Print the mean F1 of the classes of each band of support."""
    columns = [
        f"{band['videos per class']} ({band['classes']} of the classes, {band['videos']:,} videos)"
        for band in support["bands"]
    ]
    rows = [(name, *scores) for name, scores in support["f1"].items()]
    console.print_table("Mean F1 of classes, by videos per class", ("", *columns), rows)


def _print_class_priors(class_priors: dict) -> None:
    """Print the gain of class multipliers, or why there is none."""
    if "gain" not in class_priors:
        console.print_text(f"No class multipliers: {class_priors['reason']}.")
        return
    decision = "used" if class_priors["used"] else "not used"
    console.print_text(f"Class multipliers: {_gain_text(class_priors['gain'])}, so {decision}.")


def _print_budget(budget: dict) -> None:
    """Print the frontier, and what the dropped candidates would have added."""
    rows = [
        (
            " + ".join(choice["members"]),
            f"{choice['precision']}, OpenVINO" if choice.get("openvino") else choice["precision"],
            choice["seconds"],
            choice["score"],
            "chosen" if choice == budget["chosen"] else "",
        )
        for choice in budget["frontier"]
    ]
    title = (
        f"{budget['items']:,} videos within {budget['limit']:,.0f} s, with a margin of"
        f" {budget['margin']:.0%}"
    )
    console.print_table(title, ("members", "precision", "seconds", "score", ""), rows)
    if dropped := budget["dropped"]:
        console.print_table(
            "Not chosen: what each would add",
            ("member", "seconds", "score"),
            [(one["name"], one["seconds"], _interval_text(one["gain"])) for one in dropped],
        )


def _gain_text(gain: dict) -> str:
    return f"{_interval_text(gain)}, {gain['verdict']}"


def _interval_text(gain: dict) -> str:
    return f"{gain['difference']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"


def _score_cells(entry: dict, names: list[str]) -> tuple:
    low, high = entry["interval"]
    *components, official = console.score_cells(entry, names)
    return *components, f"{low:.4f} – {high:.4f}", official
