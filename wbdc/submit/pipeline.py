"""From an ensemble to a submission: pack it, check that its predictions equal those of the runs,
and time it.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wbdc.competitions import CLIP_SUFFIXES, Competition, modality_content
from wbdc.core.device import find_device, use_threads
from wbdc.core.errors import Inconclusive, IntegrityFault, ResultFault
from wbdc.core.files import check_input, json_digest
from wbdc.core.findings import Findings
from wbdc.prepare.dataset import PreparedData
from wbdc.serve.blend_file import Blend
from wbdc.serve.entry import ServeOptions, serve
from wbdc.serve.openvino_function import OPENVINO_PACKAGE, check_openvino
from wbdc.submit.check import MAX_SAMPLE_VIDEOS
from wbdc.submit.check.diff import draw_test_ids, predict_packed
from wbdc.submit.check.verify import verify_package
from wbdc.submit.pack.package import (
    PackedMember,
    PackOptions,
    check_submission_folder,
    pack_submission,
    source_hashes,
)
from wbdc.submit.pack.targets import find_target, make_target, recover_targets
from wbdc.submit.reproduced_runs import setting_files, source_kits, trace_lineage
from wbdc.submit.submission_source import SubmissionSource
from wbdc.submit.timing.options import RehearsalOptions
from wbdc.submit.timing.plausibility import MAX_CHANGED_SHARE
from wbdc.submit.timing.rehearse import rehearse
from wbdc.submit.training_commands import list_training_commands, packed_tables

PROOF_SEED = 0  # draws the test videos whose predictions are compared


@dataclass(frozen=True)
class SubmitOptions:
    """How a submission is made.

    rehearsal: how it is timed; None for no time check. half, compiled, gpu, lock, wheels: as
    in `PackOptions`. openvino: whether OpenVINO computes networks; None: as the ensemble. targets:
    names of further forms to make, for example "zip".
    """

    rehearsal: RehearsalOptions | None = None
    half: bool = False
    compiled: bool = False
    openvino: bool | None = None
    gpu: tuple[str, ...] = ()
    lock: bool = False
    wheels: bool = False
    targets: tuple[str, ...] = ()
    device: str = "auto"
    threads: int | None = None


def make_submission(
    into: Path,
    source: SubmissionSource,
    options: SubmitOptions,
    progress: Callable[[str, int, int], None],
    log: Callable[[str], None],
) -> dict:
    """Pack a blend, check that its predictions equal those of the runs, time it, and publish it.

    Nothing is published when the proof or the time check raises.

    Returns {"folder", "targets": {name: path}, "files", "bytes", "proof", "latency": {"verdict",
    "sentence", "code", ...} or None}. Raises what its steps raise.
    """
    blend = _served_blend(source.blend, options)
    source = replace(source, blend=blend)
    device = blend.device_name(options.device)
    if blend.openvino:
        check_openvino(find_device(device), blend.compiled)
    check_input(source.data)
    check_submission_folder(into)
    known_targets = source.contest.targets
    targets = {name: find_target(known_targets, name) for name in options.targets}
    threads = use_threads(options.threads)
    recover_targets(into, known_targets)

    log(f"packing {len(source.blend.members)} models into {into}")
    results: dict = {"proof": None, "latency": None}

    def check(folder: Path) -> None:
        """Prove and time the folder before it is published: one that fails replaces nothing."""
        results["proof"] = prove_equal_predictions(
            folder, source, device=device, threads=threads, log=log
        )
        if options.rehearsal:
            rehearsal = replace(options.rehearsal, device=device, threads=threads)
            results["latency"] = time_package(folder, source.data, rehearsal, progress)

    members = packed_members(source.home, blend)
    pack_submission(into, members, _pack_options(source, options), check)

    verified = verify_package(into)
    target_paths = {name: str(make_target(into, name, t)) for name, t in targets.items()}
    return {
        "folder": str(into),
        "targets": target_paths,
        "files": verified["files"],
        "bytes": verified["bytes"],
        **results,
    }


def _served_blend(blend: Blend, options: SubmitOptions) -> Blend:
    """Return a blend as it will be served."""
    openvino = blend.openvino if options.openvino is None else options.openvino
    return replace(
        blend, half=options.half, compiled=options.compiled, openvino=openvino, gpu=options.gpu
    )


def prove_equal_predictions(
    folder: Path,
    source: SubmissionSource,
    *,
    device: str,
    threads: int,
    log: Callable[[str], None],
) -> dict:
    """Predict random test videos in the packed folder and from the runs, and compare every bit.

    Returns {"videos", "equal": True, "changed_by_float16": share of videos whose class changes
    when weights are stored as float16, "changed_by_openvino": the same when OpenVINO computes in
    place of torch, only where it does}. Raises IntegrityFault when a probability differs,
    ResultFault when the result file is invalid or one of them changes more than 1 %.
    """
    contest = source.contest
    data = source.data
    blend = source.blend
    ids = draw_test_ids(contest, data, MAX_SAMPLE_VIDEOS, PROOF_SEED)
    options = ServeOptions(device=device, threads=threads, sample=ids)
    packed = predict_packed(folder, contest, data, ids, device=device, threads=threads)
    expected = _predict_runs(source, options)
    if packed.probabilities.tobytes() != expected.tobytes():
        count = int((packed.probabilities != expected).any(1).sum())
        raise IntegrityFault(
            f"the packed folder's predictions for {count} of {len(ids)} videos differ from those "
            "of the runs it was packed from; pack it again on this machine"
        )
    log(f"{len(ids):,} test videos: packed predictions equal those of the runs, bit for bit")

    def changed_share(plain: Blend, cause: str, advice: str) -> float:
        """Return the share of predictions that differ from those of a plainer blend."""
        classes = _predict_runs(replace(source, blend=plain), options).argmax(1)
        share = float((classes != expected.argmax(1)).mean())
        log(f"{cause} change {share:.2%} of these predictions")
        if share > MAX_CHANGED_SHARE:
            raise ResultFault(
                f"{cause} change {share:.1%} of the predictions, more than "
                f"{MAX_CHANGED_SHARE:.0%}; {advice}"
            )
        return share

    shares = {"changed_by_float16": 0.0}
    if blend.half:
        shares["changed_by_float16"] = changed_share(
            replace(blend, half=False), "weights stored as float16", "pack without --half"
        )
    if blend.openvino:
        shares["changed_by_openvino"] = changed_share(
            replace(blend, openvino=False),
            "networks that OpenVINO computes",
            "pack with --no-openvino",
        )
    return {"videos": len(ids), "equal": True, **shares}


def _predict_runs(source: SubmissionSource, options: ServeOptions) -> np.ndarray:
    """Predict test videos with a blend of runs, not packed; return (n, C) float32 probabilities."""
    with tempfile.TemporaryDirectory() as scratch:
        predictions, _ = serve(
            source.home,
            source.blend,
            source.contest,
            source.data,
            Path(scratch) / "result.csv",
            options,
            log=lambda line: None,
            progress=lambda done, total: None,
            start=time.perf_counter(),
        )
    return predictions.probabilities


def time_package(
    folder: Path,
    data: Path,
    options: RehearsalOptions,
    progress: Callable[[str, int, int], None],
) -> dict:
    """Time a packed folder and return the verdict: {"verdict", "sentence", "code", ...}.

    A rehearsal that runs out of time is INCONCLUSIVE and leaves no receipt: the folder itself is
    valid, and is published.
    """
    try:
        verdict = rehearse(folder, data, options, progress)
    except Inconclusive as error:
        return {"verdict": "INCONCLUSIVE", "sentence": str(error), "code": error.code}

    return {
        "verdict": verdict.status,
        "sentence": verdict.sentence,
        "code": verdict.code,
        **verdict.facts,
    }


def packed_members(home: Path, blend: Blend) -> list[PackedMember]:
    """List the models of a blend under their names in a package: "<run>/fold-<k>"."""
    return [
        PackedMember(
            name=f"{member.run}/fold-{member.fold}",
            folder=home / member.folder,
            weight=member.weight,
            serve=member.serve,
            class_weights=member.class_weights,
        )
        for member in blend.members
    ]


def optional_packages(contest: Competition, data: Path) -> list[str]:
    """List the Python packages that only some data need: a decoder for video and sound files."""
    if "sound" in map(modality_content, contest.modalities.values()):
        return ["av"]
    split = contest.find_test_split(contest.splits(data))
    first = next(contest.videos(data, split, Findings()), None)
    return ["av"] if first and first.source.path.suffix.lower() in CLIP_SUFFIXES else []


def source_hash() -> str:
    """Hash the source of the wbdc that packs; equal in a checkout and an installed wheel."""
    return json_digest(source_hashes())


def _pack_options(source: SubmissionSource, options: SubmitOptions) -> PackOptions:
    """Collect what the package holds apart from its members."""
    home = source.home
    blend = source.blend
    prepared = source.prepared
    lineage = trace_lineage(home, blend)
    return PackOptions(
        contest=source.contest,
        precision=blend.precision,
        facts=_readme_facts(prepared, source.report) | _backend_facts(blend),
        training_commands=list_training_commands(home, blend, prepared),
        report=source.report,
        source_kits=source_kits(lineage, blend),
        source_files=packed_tables(prepared) | setting_files(lineage),
        optional_packages=optional_packages(source.contest, source.data)
        + ([OPENVINO_PACKAGE] if blend.openvino else []),
        sharpness=blend.sharpness,
        class_multipliers=blend.class_multipliers,
        half=options.half,
        compiled=options.compiled,
        openvino=blend.openvino,
        gpu=options.gpu,
        lock=options.lock or options.wheels,
        wheels=options.wheels,
    )


def _backend_facts(blend: Blend) -> dict:
    """Return what README.md states about what computes the networks, where it is not torch."""
    if not blend.openvino:
        return {}
    return {"networks": "computed by OpenVINO, on the CPU"}


def _readme_facts(prepared: PreparedData, report: dict) -> dict:
    """Return what README.md states about the source, the data and the score."""
    facts = {"wbdc source": source_hash(), "prepared data": prepared.hash}
    if not report:
        return facts

    gain = report["gain"]
    interval = f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
    return facts | {
        "out of fold": report["ensemble"]["score"],
        "interval": report["ensemble"]["interval"],
        f"gain over {report['best']}": f"{gain['difference']:+.4f} {interval}, {gain['verdict']}",
    }
