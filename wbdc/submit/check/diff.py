"""The differences between two packed folders: members, weights, kits, code, time check, score and,
given data, predictions.
"""

import math
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wbdc.competitions import Competition
from wbdc.core.errors import DataFault, UsageFault
from wbdc.core.files import read_bytes, read_json
from wbdc.core.findings import Findings
from wbdc.core.flatten import flatten_table
from wbdc.core.weights import load_weights, open_weights
from wbdc.serve.blend_file import BLEND_FILE
from wbdc.serve.member_files import MODEL_FILE, WEIGHTS_FILE
from wbdc.submit.check import DEFAULT_SAMPLE, SampleOptions
from wbdc.submit.check.manifest import REPORT_FILE, read_manifest
from wbdc.submit.check.verify import packed_contest, verify_package
from wbdc.submit.timing.sandbox import run_packed
from wbdc.train.kit_files import KIT_FILE

if TYPE_CHECKING:
    from torch import Tensor

CODE_SUFFIXES = (".py", ".sh", ".txt", "Dockerfile")


class PackedFolder(NamedTuple):
    """A verified packed folder.

    summary: what `verify_package` returns. files: path -> SHA-256. members: name -> settings.
    latency: receipt of the time check, or None. facts: content of report.json, flat.
    """

    folder: Path
    summary: dict
    files: dict[str, str]
    members: dict[str, dict]
    latency: dict | None
    facts: dict


class PackedPredictions(NamedTuple):
    """Predictions of a packed folder for n videos.

    labels: n class ids. probabilities: (n, C) float32. result: bytes of the result file.
    """

    labels: list[str]
    probabilities: np.ndarray
    result: bytes


def diff_packages(a: Path, b: Path) -> dict:
    """Compare two packed folders without running them. Both are verified first.

    Returns {"same": bool} and, under each further name, the differences, empty where there are
    none. A pair is [value in a, value in b], with None for a missing value.

      competition, precision   a pair
      members     {"added", "removed": {name: weight}, "changed": {name: {setting: pair}}}
      weights     {name: {"counterpart", ...}}, as `diff_tensors` returns, for files that differ
      kits        {name: {"counterpart", "changed": {"train.epochs": [3, 5]}}}
      code, files   {"added", "removed", "changed": names}; files are neither code nor weights.
                    Files of a member or a kit are listed only when both folders hold it.
      time_check  {"verdict", "seconds": pair}
      facts       {"report.ensemble.score.mean": pair}

    A member that only one folder holds is compared with its counterpart of the same kit and fold,
    if there is one. Raises IntegrityFault.
    """
    first = _read_package(a)
    second = _read_package(b)
    differences = {
        name: _pair(first.summary[name], second.summary[name])
        for name in ("competition", "precision")
    }
    differences |= {
        "members": _diff_members(first.members, second.members),
        **_diff_models(first, second),
        **_diff_files(first, second),
        "time_check": _changed_values(_time_facts(first.latency), _time_facts(second.latency)),
        "facts": _changed_values(first.facts, second.facts),
    }
    return {"same": not any(differences.values()), **differences}


def diff_predictions(a: Path, b: Path, data: Path, options: SampleOptions = DEFAULT_SAMPLE) -> dict:
    """Predict the same random test videos with two packed folders, each in a fresh process, and
    compare. Both are verified first.

    Returns {"videos", "changed": share of videos with another class, "max_difference": of the
    probabilities, None when the folders have different classes}. Raises UsageFault for two
    competitions, IntegrityFault, and what the packed processes fail with.
    """
    summaries = [verify_package(folder) for folder in (a, b)]
    names = [summary["competition"] for summary in summaries]
    if names[0] != names[1]:
        raise UsageFault(
            f"{a} is made for {names[0]} and {b} for {names[1]}; "
            "compare predictions for one competition"
        )

    contest, second_contest = map(packed_contest, (a, b), summaries)
    ids = sample_test_ids(contest, data, options.max_videos, options.seed)
    hardware = {"device": options.device, "threads": options.threads}
    first = predict_packed(a, contest, data, ids, **hardware)
    second = predict_packed(b, second_contest, data, ids, **hardware)

    label_pairs = zip(first.labels, second.labels, strict=True)
    max_difference = None
    if _classes(a) == _classes(b):
        differences = first.probabilities.astype(np.float64) - second.probabilities
        max_difference = float(np.abs(differences).max())
    return {
        "videos": len(ids),
        "changed": sum(x != y for x, y in label_pairs) / len(ids),
        "max_difference": max_difference,
    }


def sample_test_ids(contest: Competition, data: Path, max_videos: int, seed: int) -> list[str]:
    """Draw test videos as `draw_test_ids`. Raises DataFault when the test split is empty."""
    ids = draw_test_ids(contest, data, max_videos, seed)
    if not ids:
        split = contest.find_test_split(contest.splits(data))
        raise DataFault(
            f"{data} has no video in the split {split}, so there is nothing to predict; "
            "give data with test videos"
        )
    return ids


def draw_test_ids(contest: Competition, data: Path, max_videos: int, seed: int) -> list[str]:
    """Draw up to `max_videos` random test videos; return their ids in annotation order."""
    split = contest.find_test_split(contest.splits(data))
    ids = [video.id for video in contest.videos(data, split, Findings())]
    drawn = np.random.default_rng(seed).permutation(len(ids))[:max_videos]
    return [ids[i] for i in sorted(drawn)]


def predict_packed(
    folder: Path,
    contest: Competition,
    data: Path,
    ids: list[str],
    *,
    device: str,
    threads: int | None,
) -> PackedPredictions:
    """Predict some videos with a packed folder, in a fresh, isolated process.

    Raises ResultFault, and what the process fails with.
    """
    with tempfile.TemporaryDirectory(prefix="wbdc-predictions-") as scratch:
        result = Path(scratch) / "result.csv"
        probabilities = Path(scratch) / "p.safetensors"
        run_packed(
            folder,
            data,
            result,
            device=device,
            threads=threads,
            sample=ids,
            probabilities=probabilities,
        )
        return PackedPredictions(
            labels=contest.read_result(result, ids, contest.classes(data)),
            probabilities=load_weights(probabilities)["p"].numpy(),
            result=read_bytes(result),
        )


def diff_tensors(a: Path, b: Path) -> dict:
    """Compare two weights files tensor by tensor, loading one tensor of each at a time.

    Returns {"changed_tensors": number that differ, "compared_tensors": number of those with one
    name and shape in both, "max_difference": absolute, "unmatched_tensors": other names, sorted}.
    """
    import torch  # packages with equal weights are compared without it

    changed = 0
    compared = 0
    max_difference = 0.0
    with open_weights(a) as first, open_weights(b) as second:
        first_names = {*first.keys()}
        second_names = {*second.keys()}
        unmatched = [*(first_names ^ second_names)]
        for name in sorted(first_names & second_names):
            x = first.get_tensor(name)
            y = second.get_tensor(name)
            if x.shape != y.shape:
                unmatched.append(name)
                continue
            compared += 1
            if x.dtype != y.dtype or not torch.equal(x, y):
                changed += 1
                max_difference = max(max_difference, _max_difference(x, y))
    return {
        "changed_tensors": changed,
        "compared_tensors": compared,
        "max_difference": max_difference,
        "unmatched_tensors": sorted(unmatched),
    }


def read_report(folder: Path) -> dict:
    """Read report.json; {} when the folder has none."""
    path = folder / REPORT_FILE
    return read_json(path) if path.is_file() else {}


def pair_members(a: Collection[str], b: Collection[str]) -> list[tuple[str, str]]:
    """Pair the members of two packages.

    Members of one name form a pair. The others are paired by kit and fold, in order, because a
    changed kit gives a run another hash.
    """
    unpaired: dict[tuple, list[str]] = {}
    for name in b:
        if name not in a:
            unpaired.setdefault(member_origin(name), []).append(name)

    same_origin = [
        (name, unpaired[member_origin(name)].pop(0))
        for name in a
        if name not in b and unpaired.get(member_origin(name))
    ]
    return [*((name, name) for name in a if name in b), *same_origin]


def member_origin(name: str) -> tuple[str, ...]:
    """Return kit and fold of a member: ("x", "fold-0") for "x-1f3694da/fold-0"."""
    run, *inner = PurePosixPath(name).parts
    return run.rsplit("-", 1)[0], *inner


def _read_package(folder: Path) -> PackedFolder:
    summary = verify_package(folder)
    members = {
        member.pop("folder").removeprefix("models/"): flatten_table(member)
        for member in read_json(folder / BLEND_FILE)["members"]
    }
    return PackedFolder(
        folder=folder,
        summary=summary,
        files={name: file["sha256"] for name, file in read_manifest(folder)["files"].items()},
        members=members,
        latency=summary["latency"],
        facts=flatten_table(read_report(folder)),
    )


def _diff_members(a: dict[str, dict], b: dict[str, dict]) -> dict:
    both = [name for name in a if name in b]
    differences = {
        "added": {name: member["weight"] for name, member in b.items() if name not in a},
        "removed": {name: member["weight"] for name, member in a.items() if name not in b},
        "changed": {n: _changed_values(a[n], b[n]) for n in both if a[n] != b[n]},
    }
    return differences if any(differences.values()) else {}


def _diff_models(a: PackedFolder, b: PackedFolder) -> dict:
    """Compare the weights and kits of paired members."""
    weights: dict[str, dict] = {}
    kits: dict[str, dict] = {}
    for name, counterpart in pair_members(a.members, b.members):
        first = f"models/{name}"
        second = f"models/{counterpart}"
        if a.files[f"{first}/{WEIGHTS_FILE}"] != b.files[f"{second}/{WEIGHTS_FILE}"]:
            tensors = diff_tensors(
                a.folder / first / WEIGHTS_FILE, b.folder / second / WEIGHTS_FILE
            )
            weights[name] = {"counterpart": counterpart, **tensors}
        kit = _read_kit(a, f"{first}/{KIT_FILE}")
        if changed := _changed_values(kit, _read_kit(b, f"{second}/{KIT_FILE}")):
            kits[name] = {"counterpart": counterpart, "changed": changed}
    return {"weights": weights, "kits": kits}


def _read_kit(package: PackedFolder, name: str) -> dict:
    return flatten_table(read_json(package.folder / name)) if name in package.files else {}


def _diff_files(a: PackedFolder, b: PackedFolder) -> dict:
    """Compare code and other files by their hashes.

    Weights are left out, and so are the folders of members and kits that only one package holds:
    `_diff_members` lists those.
    """
    both = {*a.members} & {*b.members}
    folders = tuple(
        folder
        for name in both
        for folder in (f"models/{name}/", f"source/kits/{PurePosixPath(name).parts[0]}/")
    )
    names = [
        name
        for name in sorted({*a.files, *b.files})
        if not name.endswith(f"/{WEIGHTS_FILE}")
        and (not name.startswith(("models/", "source/kits/")) or name.startswith(folders))
    ]
    return {
        "code": _diff_hashes(a.files, b.files, filter(_is_code, names)),
        "files": _diff_hashes(a.files, b.files, (n for n in names if not _is_code(n))),
    }


def _diff_hashes(a: dict[str, str], b: dict[str, str], names: Iterable[str]) -> dict:
    differences: dict[str, list[str]] = {"added": [], "removed": [], "changed": []}
    for name in names:
        if name not in a:
            differences["added"].append(name)
        elif name not in b:
            differences["removed"].append(name)
        elif a[name] != b[name]:
            differences["changed"].append(name)
    return differences if any(differences.values()) else {}


def _is_code(name: str) -> bool:
    return name.startswith(("wbdc/", "source/wbdc/")) or name.endswith(CODE_SUFFIXES)


def _time_facts(latency: dict | None) -> dict:
    if not latency:
        return {}
    return {"verdict": latency["verdict"], "seconds": latency["projection"]["expected"]}


def _classes(folder: Path) -> list[str]:
    member = read_json(folder / BLEND_FILE)["members"][0]
    return read_json(folder / member["folder"] / MODEL_FILE)["classes"]


def _changed_values(a: dict, b: dict) -> dict[str, list]:
    """Pair the values that differ, by name, sorted."""
    names = sorted({*a, *b})
    return {name: [a.get(name), b.get(name)] for name in names if a.get(name) != b.get(name)}


def _pair(a: object, b: object) -> list:
    return [] if a == b else [a, b]


def _max_difference(x: "Tensor", y: "Tensor") -> float:
    """Return the largest absolute difference; infinity where it is not a number."""
    if not x.numel():
        return 0.0
    difference = (x.double() - y.double()).abs()
    return float(difference.nan_to_num(nan=math.inf, posinf=math.inf).max())
