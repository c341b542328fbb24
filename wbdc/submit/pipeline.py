"""From an ensemble to a submission: what is packed, how it is trained again, and the proof that it
answers as the runs do.
"""

import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from wbdc.competitions import CLIP_SUFFIXES, Competition
from wbdc.core.device import use_threads
from wbdc.core.errors import Inconclusive, IntegrityBroken, ResultInvalid
from wbdc.core.files import check_input, json_digest
from wbdc.core.findings import Findings
from wbdc.prepare.dataset import PreparedData
from wbdc.serve.blend_file import Blend
from wbdc.serve.entry import serve
from wbdc.submit.check.diff import drawn, predict_packed
from wbdc.submit.check.verify import verify_package
from wbdc.submit.pack.package import (
    PackedMember,
    check_submission_folder,
    kit_file,
    pack_submission,
    source_files,
)
from wbdc.submit.pack.targets import find_target, make_target, recover_targets
from wbdc.submit.timing.plausibility import MOST
from wbdc.submit.timing.rehearse import RehearsalOptions, rehearse
from wbdc.train.runs import ALL_FOLDS, RunFacts, read_run

PROOF_VIDEOS = 256  # test videos whose answers are compared


@dataclass(frozen=True)
class SubmitOptions:
    """How a submission is made.

    rehearsal: how it is timed, None: not at all. half, compiled, locked, wheelhouse: as `pack`.
    targets: other forms to make.
    """

    rehearsal: RehearsalOptions | None = None
    half: bool = False
    compiled: bool = False
    locked: bool = False
    wheelhouse: bool = False
    targets: tuple[str, ...] = ()
    device: str = "auto"
    threads: int | None = None


def make_submission(
    into: Path,
    home: Path,
    blend: Blend,
    prepared: PreparedData,
    data: Path,
    report: dict,
    options: SubmitOptions,
    progress: Callable[[str, int, int], None],
    say: Callable[[str], None],
) -> dict:
    """Pack a blend, prove that the folder answers as the runs do, time it when that is asked for,
    and publish it then.

    Returns {"files", "bytes", "proved", "latency": {"word", "sentence", "code", ...} or None}.
    Raises what its steps raise.
    """
    check_input(data)
    check_submission_folder(into)
    contest = prepared.contest
    threads, targets = (
        use_threads(options.threads),
        {name: find_target(contest.targets, name) for name in options.targets},
    )
    recover_targets(into, contest.targets)
    say(f"packing {len(blend.members)} models into {into}")
    blend = replace(blend, half=options.half, compiled=options.compiled)
    facts = {"source": source_hash(), "data": prepared.hash}
    if report:
        more = report["gain"]
        gain = f"{more['difference']:+.4f} [{more['low']:+.4f}, {more['high']:+.4f}], {more['verdict']}"
        facts |= {
            "out of fold": report["ensemble"]["score"],
            "interval": report["ensemble"]["interval"],
            f"gain over {report['best']}": gain,
        }
    found: dict = {"proved": None, "latency": None}

    def check(folder: Path) -> None:
        """Prove and time the folder before it is published: one that fails replaces nothing."""
        found["proved"] = prove_equal_predictions(
            folder,
            home,
            blend,
            contest,
            data,
            most=PROOF_VIDEOS,
            seed=0,
            device=options.device,
            threads=threads,
            say=say,
        )
        if options.rehearsal:
            rehearsal = replace(options.rehearsal, device=options.device, threads=threads)
            found["latency"] = _time(folder, data, rehearsal, progress)

    pack_submission(
        into,
        packed_members(home, blend),
        contest=contest,
        precision=blend.precision,
        facts=facts,
        retrain=training_script(home, blend, prepared),
        kits={
            source_kit(n, told): home / "runs" / n / "fold-all"
            for n, told in source_kits(home, blend).items()
        },
        optional=optional_packages(contest, data),
        class_multipliers=blend.class_multipliers,
        check=check,
        half=options.half,
        compiled=options.compiled,
        report=report,
        locked=options.locked or options.wheelhouse,
        wheelhouse=options.wheelhouse,
    )
    checked = verify_package(into)
    made = {name: str(make_target(into, name, target)) for name, target in targets.items()}
    return {
        "folder": str(into),
        "targets": made,
        "files": checked["files"],
        "bytes": checked["bytes"],
        **found,
    }


def _time(
    folder: Path,
    data: Path,
    options: RehearsalOptions,
    progress: Callable[[str, int, int], None],
) -> dict:
    """Time a packed folder and return the verdict: {"word", "sentence", "code", ...}.

    A rehearsal that ran out of time is INCONCLUSIVE and leaves no receipt: the folder itself is
    sound, and is published.
    """
    try:
        verdict = rehearse(folder, data, options, progress)
    except Inconclusive as error:
        return {"word": "INCONCLUSIVE", "sentence": str(error), "code": error.code}

    return {
        "word": verdict.word,
        "sentence": verdict.sentence,
        "code": verdict.code,
        **verdict.facts,
    }


def optional_packages(contest: Competition, data: Path) -> list[str]:
    """List the packages that only some data ask for: a reader of video files."""
    first = next(contest.videos(data, contest.find_test_split(contest.splits(data)), Findings()), None)
    return ["av"] if first and first.source.path.suffix.lower() in CLIP_SUFFIXES else []


def packed_members(home: Path, blend: Blend) -> list[PackedMember]:
    """List the models of a blend as a package names them: "<run>/fold-<k>"."""
    return [
        PackedMember(f"{m.run}/fold-{m.fold}", home / m.folder, m.weight, m.serve)
        for m in blend.members
    ]


def training_script(home: Path, blend: Blend, prepared: PreparedData) -> list[str]:
    """List the commands that make the same models from raw data: prepare, pretrain, train,
    ensemble, submit.
    """
    facts, settings, lines = prepared.facts, blend.settings, []
    contest = facts.competition
    if contest.endswith(".py"):  # lies beside each kit
        contest = shlex.quote(
            str(PurePosixPath(kit_file(blend.members[0].run)).with_name(Path(contest).name))
        )
    lines.append(
        f'wbdc prepare --data "$DATA" --competition {contest} --folds {facts.fold_count} --seed {facts.seed} --work "$WORK"'
    )
    folds: dict[str, set[str]] = {}
    for member in blend.members:
        folds.setdefault(member.run, set(settings.get("folds", []))).add(
            member.fold
        )  # also those that only the score needs
    for source, told in source_kits(home, blend).items():
        lines.append(
            f'wbdc pretrain --kit {source_kit(source, told)} --seed {told.seed} --work "$WORK"'
        )
    for run, trained in folds.items():
        told = read_run(home / "runs" / run)
        without = f" --without {told.without}" if told.without else ""
        lines.append(
            f'wbdc train --kit {kit_file(run)} --seed {told.seed} --work "$WORK" --fold {",".join(sorted(trained))} --from {told.source or "none"}{without}'
        )
    switches = "".join(
        f" --{option}"
        for name, option in (("half", "half"), ("compiled", "compile"))
        if getattr(blend, name)
    )
    alone = f" --run {blend.run}" if blend.run else ""
    if not alone:
        lines.append(_ensemble(blend, folds))
    return [*lines, f'wbdc submit --work "$WORK"{alone} --into "$WORK/submission"{switches}']


def _ensemble(blend: Blend, trained: dict[str, set[str]]) -> str:
    """Word the command that blends the same members in the same forms."""
    forms: dict[str, dict] = {}
    for member in blend.members:
        form = forms.setdefault(member.run, {"serve": member.serve, "folds": []})
        form["folds"].append(member.fold)
    names = []
    for run, form in forms.items():
        settings = [f"{key}={value}" for key, value in form["serve"].items()] + (
            [f"fold={form['folds'][0]}"] if set(form["folds"]) != trained[run] else []
        )
        names.append(f" --run '{' '.join([run, *settings])}'")
    settings, asked = blend.settings, ""
    if settings:
        asked = f" --seed {settings['seed']} --draws {settings['draws']}"
        asked += "" if settings["class_priors"] else " --no-class-priors"
    asked += f" --precision {settings['precision']}" if settings.get("precision") else ""
    learned = settings.get("folds", [])
    if learned and set.intersection(*trained.values()) - {ALL_FOLDS} != set(
        learned
    ):  # a member that was dropped had fewer folds
        asked += f" --folds {','.join(learned)}"
    return f'wbdc ensemble --work "$WORK"{asked}{"".join(names)}'


def source_kits(home: Path, blend: Blend) -> dict[str, RunFacts]:
    """List the pretrained runs that the members of a blend started from, with their facts."""
    names = dict.fromkeys(read_run(home / "runs" / member.run).source for member in blend.members)
    return {name: read_run(home / "runs" / name) for name in names if name}


def source_kit(name: str, told: RunFacts) -> str:
    """Say where the kit of a pretrained run lies in the package. The file keeps the kit's name, so
    that the run gets its own again.
    """
    return f"source/kits/{name}/{told.kit}.json"


def prove_equal_predictions(
    folder: Path,
    home: Path,
    blend: Blend,
    contest: Competition,
    data: Path,
    *,
    most: int,
    seed: int,
    device: str,
    threads: int,
    say: Callable[[str], None],
) -> dict:
    """Answer up to `most` random test videos in the packed folder and in the tree, and compare
    every bit.

    Returns {"videos", "equal", "changed_by_half"}: the share of answers that weights as float16
    change. Raises IntegrityBroken when an answer differs,
    ResultInvalid when the result file is no good, or more than 1 % change.
    """
    sample = drawn(contest, data, most, seed)
    theirs = predict_packed(
        folder, contest, data, sample, device=device, threads=threads
    ).probabilities
    with tempfile.TemporaryDirectory() as scratch:

        def own(blend: Blend) -> np.ndarray:
            answers, _ = serve(
                home,
                blend,
                contest,
                data,
                Path(scratch) / "own.csv",
                split=None,
                device=device,
                precision=None,
                threads=threads,
                sample=sample,
                say=lambda line: None,
                progress=lambda done, of: None,
                began=time.perf_counter(),
            )
            return answers.probabilities

        ours, whole = own(blend), own(replace(blend, half=False)) if blend.half else None
    if theirs.tobytes() != ours.tobytes():
        rows = int((theirs != ours).any(1).sum())
        raise IntegrityBroken(
            f"the packed folder answers {rows} of {len(sample)} videos otherwise than the runs it was packed from; pack it again on this machine"
        )
    say(f"{len(sample):,} test videos: packed answers equal the runs' answers, bit for bit")
    changed = float((whole.argmax(1) != ours.argmax(1)).mean()) if whole is not None else 0.0
    if whole is not None:
        say(f"weights as float16 change {changed:.2%} of these answers")
    if changed > MOST:
        raise ResultInvalid(
            f"weights as float16 change {changed:.1%} of the answers, more than {MOST:.0%}; pack without --half"
        )
    return {"videos": len(sample), "equal": True, "changed_by_half": changed}


def source_hash() -> str:
    """Hash the source of wbdc that packs; equal in a checkout and an installed wheel, where a
    commit is unknown.
    """
    return json_digest(source_files())
