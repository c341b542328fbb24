"""The numbers and the pictures of a report, by what it is about."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wbdc.core.files import read_json, read_seal
from wbdc.prepare.dataset import PreparedData, open_prepared
from wbdc.report.collect.answers import collect_answers
from wbdc.report.collect.blend_facts import blend_facts, member_agreement
from wbdc.report.collect.dataset_summary import dataset_facts, dataset_summary
from wbdc.report.collect.fold_scores import fold_scores
from wbdc.report.collect.held_out import HeldOut, run_held_out
from wbdc.report.collect.label_errors import label_errors
from wbdc.report.collect.mistakes import VideoContext, collect_mistakes
from wbdc.report.collect.modalities import ablations
from wbdc.report.collect.near_duplicates import near_duplicate_groups
from wbdc.report.collect.run_facts import run_facts
from wbdc.report.collect.sweep_facts import sweep_sections
from wbdc.report.collect.timing import budget_facts, receipt_facts
from wbdc.report.collect.training_curves import training_curves
from wbdc.report.collect.training_progress import training_progress
from wbdc.report.report_options import ReportOptions
from wbdc.report.subjects import Subject
from wbdc.report.thumbnails import read_thumbnails
from wbdc.submit.check.manifest import RECEIPT_FILE, REPORT_FILE, read_manifest
from wbdc.sweep.sweep_result import read_sweep
from wbdc.train.runs import ALL_FOLDS, Run, read_run

GAIN_FACT = "gain over"  # of a package; the section about the blend has it
MAX_GROUP_VIDEOS = 12  # of near-duplicates that the page shows side by side


class Report(NamedTuple):
    """A report. numbers: plain values for JSON, by section; pictures: {id: data URIs}."""

    numbers: dict
    pictures: dict[str, list[str]]


def build_report(work: Path, subject: Subject, options: ReportOptions) -> Report:
    """Collect the numbers and pictures of a report.

    Raises UsageFault and IntegrityFault of the files that it reads.
    """
    builders = {
        "run": _build_run,
        "ensemble": _build_ensemble,
        "submission": _build_submission,
        "sweep": _build_sweep,
        "prepared": _build_prepared,
    }
    return builders[subject.kind](work, subject, options)


def _build_run(work: Path, subject: Subject, options: ReportOptions) -> Report:
    run = Run(subject.path, read_run(subject.path))
    prepared = open_prepared(work, run.facts.data)
    groups = near_duplicate_groups(prepared)
    numbers = {
        "kind": subject.kind,
        "name": run.name,
        "facts": run_facts(run),
        "training": training_curves(run),
    }
    if progress := training_progress(run):
        numbers["progress"] = progress
    if set(run.folds()) - {ALL_FOLDS}:
        held_out = run_held_out(run)
        numbers["folds"] = fold_scores(run, held_out, draws=options.draws, seed=options.seed)
        numbers |= _answer_sections(held_out, prepared, groups, options)
        numbers["answers"]["ablations"] = ablations(work, run)
    return _finish(numbers, prepared, groups, options)


def _build_ensemble(work: Path, subject: Subject, options: ReportOptions) -> Report:
    # these import torch, which a report of a run does not need
    from wbdc.ensemble.saved_ensembles import open_ensemble, open_report
    from wbdc.report.collect.ensemble_members import ensemble_held_out

    _, blend = open_ensemble(work, subject.name)
    saved = open_report(work, subject.name)
    prepared = open_prepared(work, saved["data"])
    groups = near_duplicate_groups(prepared)
    held_out = ensemble_held_out(work, subject.name, saved, blend, prepared)
    numbers = {
        "kind": subject.kind,
        "name": subject.name,
        "facts": {
            "competition": blend.competition,
            "data": saved["data"],
            "precision": blend.precision,
            "models": len(blend.members),
            "command": read_seal(subject.path).get("command"),
        },
        "blend": blend_facts(saved) | {"agreement": member_agreement(held_out)},
        **_answer_sections(held_out, prepared, groups, options),
    }
    if "budget" in saved:
        numbers["time"] = {"budget": budget_facts(saved["budget"])}
    return _finish(numbers, prepared, groups, options)


def _build_submission(work: Path, subject: Subject, options: ReportOptions) -> Report:
    """Report on a packed folder by its own files: it may be on a machine without the runs."""
    manifest = read_manifest(subject.path)
    sizes = [entry["bytes"] for entry in manifest["files"].values()]
    facts = _read_facts(subject.path / REPORT_FILE)
    receipt = _read_facts(subject.path / RECEIPT_FILE)
    saved = facts.pop("report", None)
    numbers = {
        "kind": subject.kind,
        "name": subject.name,
        "facts": {
            "competition": manifest["competition"],
            "precision": manifest["precision"],
            "models": len(manifest["members"]),
            "files": len(sizes),
            "bytes": sum(sizes),
            "package": manifest["package_sha256"],
            **{
                name: value
                for name, value in facts.items()
                if isinstance(value, str) and not (saved and name.startswith(GAIN_FACT))
            },
        },
    }
    if saved:
        numbers["blend"] = blend_facts(saved)
    numbers["time"] = {"receipt": receipt_facts(receipt) if receipt else None}
    if saved and "budget" in saved:
        numbers["time"]["budget"] = budget_facts(saved["budget"])
    return Report(numbers, {})


def _read_facts(path: Path) -> dict:
    """Read a file that a package may lack: {} without it."""
    return read_json(path) if path.is_file() else {}


def _build_sweep(work: Path, subject: Subject, options: ReportOptions) -> Report:
    sections = sweep_sections(read_sweep(subject.path))
    return Report({"kind": subject.kind, "name": subject.name, **sections}, {})


def _build_prepared(work: Path, subject: Subject, options: ReportOptions) -> Report:
    prepared = open_prepared(work, subject.name)
    groups = near_duplicate_groups(prepared)
    numbers = {"kind": subject.kind, "name": prepared.hash, "facts": dataset_facts(prepared)}
    return _finish(numbers, prepared, groups, options)


def _answer_sections(
    held_out: HeldOut, prepared: PreparedData, groups: list[dict], options: ReportOptions
) -> dict:
    """Return the sections about predictions: answers, mistakes and likely label errors."""
    suspects = label_errors(held_out)
    context = VideoContext(
        groups={name: number for number, one in enumerate(groups, 1) for name in one["ids"]},
        suspects={error["id"]: error["suggested"] for error in suspects},
    )
    return {
        "answers": collect_answers(held_out, prepared),
        "mistakes": collect_mistakes(held_out, prepared, context, options.mistakes),
        "label_errors": suspects,
    }


def _finish(
    numbers: dict, prepared: PreparedData, groups: list[dict], options: ReportOptions
) -> Report:
    """Add the section about the data, and the pictures of all videos that the page shows."""
    numbers["data"] = dataset_summary(prepared, groups)
    pictures = read_thumbnails(prepared, _shown_ids(numbers)) if options.pictures else {}
    return Report(numbers, pictures)


def _shown_ids(numbers: dict) -> Iterator[str]:
    yield from (video["id"] for video in numbers.get("mistakes", {}).get("videos", ()))
    for group in numbers["data"]["duplicates"]["groups"]:
        yield from group["ids"][:MAX_GROUP_VIDEOS]
