"""How `wbdc ensemble` builds an ensemble: its options, its members, and their predictions."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wbdc.cli import console, shared_options

if TYPE_CHECKING:
    import polars as pl

    from wbdc.ensemble.ensemble_settings import EnsembleSettings
    from wbdc.ensemble.out_of_fold import ServingHardware
    from wbdc.ensemble.outside_members import OutsideMember
    from wbdc.ensemble.variants import Variant


@dataclass(frozen=True)
class EnsembleOptions:
    """The options of the command, by their names. Raises UsageFault."""

    folds: str | None
    outside: tuple[str, ...]
    limit: float | None
    qps: float | None
    items: int | None
    frames: str | None
    length: str | None
    clips: str | None
    crops: str | None
    precision: str | None
    openvino: bool | None
    mean: str
    class_priors: bool
    bands: str
    draws: int
    seed: int
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        from wbdc.core.errors import UsageFault
        from wbdc.ensemble.band_weights import check_bounds

        shared_options.check_one_limit(self.limit, self.qps)
        if self.bounds:
            check_bounds(self.bounds)
        tried = self.frames or self.length or self.clips or self.crops
        if (tried or self.items) and not self.has_limit:
            raise UsageFault(
                "--frames, --length, --clips, --crops and --items need a time limit; add --limit "
                "(seconds) or --qps"
            )
        if self.folds and self.has_limit:
            raise UsageFault(
                "--folds cannot be combined with --limit or --qps; leave --folds or the limit out"
            )
        if self.outside and self.has_limit:
            raise UsageFault(
                "--with cannot be combined with --limit or --qps, since the time of a member from"
                " outside wbdc is unknown; leave one of them out"
            )

    @property
    def bounds(self) -> tuple[int, ...]:
        """The bounds of the bands of class support; () for none. Raises UsageFault."""
        return () if self.bands == "none" else tuple(parse_counts(self.bands, "--bands"))

    @property
    def blending(self) -> "EnsembleSettings":
        """How members are blended and scored."""
        from wbdc.ensemble.ensemble_settings import EnsembleSettings

        return EnsembleSettings(self.mean, self.class_priors, self.bounds, self.draws, self.seed)

    @property
    def has_limit(self) -> bool:
        """Whether members are chosen within a time limit."""
        return bool(self.limit or self.qps)


def read_outside(
    work: Path, options: EnsembleOptions, members: "list[Variant]"
) -> "list[OutsideMember]":
    """Read the members from outside wbdc. Raises UsageFault when one has the name of a run."""
    from wbdc.core.errors import UsageFault
    from wbdc.ensemble.outside_members import read_outside_members
    from wbdc.prepare.dataset import open_prepared

    if not options.outside:
        return []
    dataset = open_prepared(work, members[0].run.facts.data)
    split = dataset.facts.labeled_split
    ids = dataset.read_split(split, ["id"])["id"].to_list()
    outside = read_outside_members(options.outside, ids, dataset.facts.classes, split)
    runs = {member.name for member in members}
    if repeated := [member.name for member in outside if member.name in runs]:
        raise UsageFault(f"--with {repeated[0]}: a run has this name; use --with OTHER=FILE")
    return outside


def build_of_all(
    work: Path,
    name: str,
    members: "list[Variant]",
    outside: "list[OutsideMember]",
    data: Path,
    options: EnsembleOptions,
    progress: console.ProgressCallback,
) -> dict:
    """Blend all members; return the report."""
    from wbdc.ensemble.build_ensemble import build_ensemble

    return build_ensemble(
        work,
        name,
        members,
        _predict_members(members, data, options, progress),
        only_folds=_split_list(options.folds),
        outside=outside,
        precision=options.precision,
        openvino=bool(options.openvino),
        settings=options.blending,
    )


def build_within_limit(
    work: Path,
    name: str,
    members: "list[Variant]",
    data: Path,
    options: EnsembleOptions,
    progress: console.ProgressCallback,
) -> dict:
    """Blend the best members within the time limit; return the report."""
    from wbdc.ensemble.budget.budget_search import BudgetOptions, build_ensemble_within

    items = options.items or shared_options.final_run_items(members[0].run.contest)
    return build_ensemble_within(
        work,
        name,
        members,
        data,
        _hardware_to_try(members, options),
        BudgetOptions(
            limit=options.limit or items / options.qps,
            items=items,
            frames=parse_counts(options.frames, "--frames"),
            lengths=parse_counts(options.length, "--length"),
            clips=parse_counts(options.clips, "--clips"),
            crops=parse_counts(options.crops, "--crops"),
            settings=options.blending,
            requires_openvino=bool(options.openvino),
        ),
        log=console.log,
        progress=progress,
    )


def _predict_members(
    members: "list[Variant]",
    data: Path,
    options: EnsembleOptions,
    progress: console.ProgressCallback,
) -> "list[pl.DataFrame] | None":
    """Predict out of fold as the members will be served; None when their runs already did."""
    from wbdc.ensemble.out_of_fold import out_of_fold_predictions

    changes_hardware = options.precision or options.openvino
    if not changes_hardware and not any(member.serve for member in members):
        return None

    contest, hardware = members[0].run.contest, _hardware(members, options, options.precision)
    return [
        out_of_fold_predictions(
            member,
            data,
            contest,
            hardware,
            progress,
            training_precision=_was_evaluated_in(member, hardware),
        )
        for member in members
    ]


def _was_evaluated_in(member: "Variant", hardware: "ServingHardware") -> bool:
    """Return whether all folds of a member were evaluated in the precision of `hardware`."""
    from wbdc.core.device import find_precision
    from wbdc.ensemble.saved_ensembles import serving_precisions

    names = serving_precisions(member)
    return all(find_precision(name, hardware.device) == hardware.precision for name in names)


def _hardware(
    members: "list[Variant]", options: EnsembleOptions, precision: str | None = None
) -> "ServingHardware":
    """Return this machine in a precision, by default that of the members' kits."""
    from wbdc.core.device import find_device, find_precision, use_threads
    from wbdc.ensemble.out_of_fold import ServingHardware
    from wbdc.ensemble.saved_ensembles import members_blend
    from wbdc.serve.openvino_function import check_openvino

    work = members[0].run.folder.parents[1]
    blend = members_blend(work, members, [1.0] * len(members), precision)
    blend = replace(blend, openvino=bool(options.openvino))
    device = find_device(blend.device_name(options.device))
    if blend.openvino:
        check_openvino(device)
    dtype = find_precision(blend.precision, device)
    return ServingHardware(device, dtype, use_threads(options.threads), blend.openvino)


def _hardware_to_try(members: "list[Variant]", options: EnsembleOptions) -> "list[ServingHardware]":
    """Return this machine in the precision of the kits, then in each other one to try, and then all
    of them with OpenVINO where that is to be tried.
    """
    from wbdc.core.device import find_precision

    hardware = _hardware(members, options)._replace(openvino=False)
    requested = [find_precision(name, hardware.device) for name in _split_list(options.precision)]
    precisions = dict.fromkeys([hardware.precision, *requested])
    torch_rows = [hardware._replace(precision=precision) for precision in precisions]
    if not _tries_openvino(members, options, hardware):
        return torch_rows
    return [*torch_rows, *(row._replace(openvino=True) for row in torch_rows)]


def _tries_openvino(
    members: "list[Variant]", options: EnsembleOptions, hardware: "ServingHardware"
) -> bool:
    """Return whether a search tries OpenVINO: on request, or where it is installed and computes
    networks on this device.
    """
    from wbdc.ensemble.saved_ensembles import serving_precisions
    from wbdc.serve.openvino_function import is_openvino_installed

    if options.openvino is not None:
        return options.openvino
    has_networks = any(serving_precisions(member) for member in members)
    return has_networks and hardware.device.type == "cpu" and is_openvino_installed()


def _split_list(text: str | None) -> list[str]:
    """Split "0,1" at its commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def parse_counts(text: str | None, option: str) -> list[int]:
    """Parse "8,4" as numbers of 1 or more. Raises UsageFault."""
    from wbdc.core.errors import UsageFault

    parts = _split_list(text)
    if invalid := [part for part in parts if not part.isdecimal() or int(part) < 1]:
        raise UsageFault(
            f"{option} {text}: {invalid[0]!r} is not a positive integer; give for example "
            f"{option} 8,4"
        )
    return [int(part) for part in parts]
