"""What differs between two packed folders: members, weights, kits, code, time check, score; and, on
data, their answers.
"""

import tempfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch

from wbdc.competitions import Competition
from wbdc.core.errors import DataInvalid, UsageFault
from wbdc.core.files import read_bytes, read_json
from wbdc.core.findings import Findings
from wbdc.core.weights import load_weights, open_weights
from wbdc.serve.blend_file import BLEND_FILE
from wbdc.serve.predict import MODEL_FILE, WEIGHTS_FILE
from wbdc.submit.check import MAX_SAMPLE_VIDEOS
from wbdc.submit.check.manifest import REPORT_FILE, read_manifest
from wbdc.submit.check.verify import packed_contest, verify_package
from wbdc.submit.flatten import flatten_table
from wbdc.submit.pack.package import KIT_FILE
from wbdc.submit.timing.sandbox import run_packed


class PackedFolder(NamedTuple):
    """A packed folder. files: path -> SHA-256; members: name -> {"weight", ...}; latency: the
    receipt or None; facts: of its report, flat.
    """

    folder: Path
    said: dict
    files: dict[str, str]
    members: dict[str, dict]
    latency: dict | None
    facts: dict


class PackedPredictions(NamedTuple):
    """What a packed folder answered. labels: n class ids; probabilities: (n, C) float32; result:
    bytes of the result file.
    """

    labels: list[str]
    probabilities: np.ndarray
    result: bytes


def diff_packages(a: Path, b: Path) -> dict:
    """Compare two packed folders without running them. Both are verified first.

    Returns {"same": bool}, and under each other name what differs, empty where nothing does. Pairs
    are [of a, of b], None: absent there.
      competition, precision   a pair
      members   {"added", "removed": {name: weight}, "changed": {name: {setting: pair}}}
      weights   {name: {"with", "tensors", "of", "largest", "alone"}}, as `tensors` returns, of
      files of other bytes
      kits      {name: {"with", "changed": {"train.epochs": [3, 5]}}}
      code, files   {"added", "removed", "changed": names}, files: all that is neither code nor
      weights; a member's only where both hold it
      time      {"verdict", "seconds": pair}, facts   {"report.ensemble.score.mean": pair}
    A member that only one folder holds is held against one of the same kit and fold, if any
    ("with"). Raises IntegrityBroken.
    """
    first, second = _read(a), _read(b)
    found = {
        name: _pair(first.said[name], second.said[name]) for name in ("competition", "precision")
    }
    found |= {
        "members": _members(first.members, second.members),
        **_paired(first, second),
        **_files(first, second),
    }
    found |= {
        "time": _changed(_time(first.latency), _time(second.latency)),
        "facts": _changed(first.facts, second.facts),
    }
    return {"same": not any(found.values()), **found}


def diff_predictions(
    a: Path,
    b: Path,
    data: Path,
    *,
    most: int = MAX_SAMPLE_VIDEOS,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
) -> dict:
    """Let two packed folders answer the same random test videos, each in a fresh process, and
    compare. Both are verified first.

    Returns {"videos", "changed": share of other answers, "largest": difference of probabilities,
    None when their classes differ}.
    Raises UsageFault for two competitions, IntegrityBroken, and what the packed processes fail
    with.
    """
    names = [verify_package(folder)["competition"] for folder in (a, b)]
    if names[0] != names[1]:
        raise UsageFault(
            f"{a} answers {names[0]} and {b} answers {names[1]}; compare answers of one competition"
        )
    contests = [
        packed_contest(folder, {"competition": name}) for folder, name in zip((a, b), names)
    ]
    ids = sample_ids(contests[0], data, most, seed)
    first, second = (
        predict_packed(folder, contest, data, ids, device=device, threads=threads)
        for folder, contest in zip((a, b), contests)
    )
    alike = _classes(a) == _classes(b)
    largest = (
        float(np.abs(first.probabilities.astype(np.float64) - second.probabilities).max())
        if alike
        else None
    )
    return {
        "videos": len(ids),
        "changed": sum(x != y for x, y in zip(first.labels, second.labels, strict=True)) / len(ids),
        "largest": largest,
    }


def sample_ids(contest: Competition, data: Path, most: int, seed: int) -> list[str]:
    """Draw as `draw_test_ids` does. Raises DataInvalid when there is no video."""
    ids = draw_test_ids(contest, data, most, seed)
    if not ids:
        raise DataInvalid(
            f"{data} holds no video of the split {contest.find_test_split(contest.splits(data))}; there is nothing to answer"
        )
    return ids


def draw_test_ids(contest: Competition, data: Path, most: int, seed: int) -> list[str]:
    """Draw up to `most` random test videos, in the order of the annotations."""
    ids = [
        v.id
        for v in contest.videos(data, contest.find_test_split(contest.splits(data)), Findings())
    ]
    return [ids[i] for i in sorted(np.random.default_rng(seed).permutation(len(ids))[:most])]


def predict_packed(
    folder: Path,
    contest: Competition,
    data: Path,
    ids: list[str],
    *,
    device: str,
    threads: int | None,
) -> PackedPredictions:
    """Let a packed folder answer some videos in a fresh, isolated process. Raises ResultInvalid,
    and what the process fails with.
    """
    with tempfile.TemporaryDirectory(prefix="wbdc-answers-") as place:
        result, probabilities = Path(place) / "result.csv", Path(place) / "p.safetensors"
        run_packed(
            folder,
            data,
            result,
            device=device,
            threads=threads,
            sample=ids,
            probabilities=probabilities,
        )
        labels = contest.read_result(result, ids, contest.classes(data))
        return PackedPredictions(
            labels, load_weights(probabilities)["p"].numpy(), read_bytes(result)
        )


def diff_tensors(a: Path, b: Path) -> dict:
    """Compare two weights files tensor by tensor, one of them in memory at a time.

    Returns {"tensors": how many differ, "of": how many both hold in one shape, "largest": absolute
    difference, "alone": other names, sorted}.
    """
    differ, both, largest, alone = 0, 0, 0.0, []
    with open_weights(a) as first, open_weights(b) as second:
        names = {*first.keys()} & {*second.keys()}
        alone += {*first.keys()} ^ {*second.keys()}
        for name in sorted(names):
            x, y = first.get_tensor(name), second.get_tensor(name)
            if x.shape != y.shape:
                alone.append(name)
                continue
            both += 1
            if x.dtype != y.dtype or not torch.equal(x, y):
                differ, largest = differ + 1, max(largest, _largest(x, y))
    return {"tensors": differ, "of": both, "largest": largest, "alone": sorted(alone)}


def read_report(folder: Path) -> dict:
    """Read the facts that were packed for machines; {} when the folder holds none."""
    return read_json(folder / REPORT_FILE) if (folder / REPORT_FILE).is_file() else {}


def pair_members(a: Collection[str], b: Collection[str]) -> list[tuple[str, str]]:
    """Pair members of one name, then those left of one kit and fold, in order: a changed kit gives
    a run another hash.
    """
    left: dict[tuple, list[str]] = {}
    for name in (n for n in b if n not in a):
        left.setdefault(member_origin(name), []).append(name)
    again = [
        (name, left[member_origin(name)].pop(0))
        for name in a
        if name not in b and left.get(member_origin(name))
    ]
    return [*((name, name) for name in a if name in b), *again]


def member_origin(name: str) -> tuple[str, ...]:
    """Say what a member was made by: "dual_stream-1f3694da/fold-0" is ("dual_stream", "fold-0")."""
    run, *inner = PurePosixPath(name).parts
    return run.rsplit("-", 1)[0], *inner


def _read(folder: Path) -> PackedFolder:
    said = verify_package(folder)
    files = {name: entry["sha256"] for name, entry in read_manifest(folder)["files"].items()}
    entries = read_json(folder / BLEND_FILE)["members"]
    members = {
        m["folder"].removeprefix("models/"): flatten_table(
            {k: v for k, v in m.items() if k != "folder"}
        )
        for m in entries
    }
    return PackedFolder(
        folder, said, files, members, said["latency"], flatten_table(read_report(folder))
    )


def _members(a: dict[str, dict], b: dict[str, dict]) -> dict:
    changed = {name: _changed(a[name], b[name]) for name in a if name in b and a[name] != b[name]}
    found = {"added": _alone(b, a), "removed": _alone(a, b), "changed": changed}
    return found if any(found.values()) else {}


def _alone(own: dict[str, dict], others: dict[str, dict]) -> dict[str, float]:
    return {name: entry["weight"] for name, entry in own.items() if name not in others}


def _paired(a: PackedFolder, b: PackedFolder) -> dict:
    """Compare weights and kits of members that belong together."""
    weights, kits = {}, {}
    for name, other in pair_members(a.members, b.members):
        first, second = f"models/{name}", f"models/{other}"
        if a.files[f"{first}/{WEIGHTS_FILE}"] != b.files[f"{second}/{WEIGHTS_FILE}"]:
            weights[name] = {
                "with": other,
                **diff_tensors(a.folder / first / WEIGHTS_FILE, b.folder / second / WEIGHTS_FILE),
            }
        if changed := _changed(_kit(a, f"{first}/{KIT_FILE}"), _kit(b, f"{second}/{KIT_FILE}")):
            kits[name] = {"with": other, "changed": changed}
    return {"weights": weights, "kits": kits}


def _kit(side: PackedFolder, name: str) -> dict:
    return flatten_table(read_json(side.folder / name)) if name in side.files else {}


def _files(a: PackedFolder, b: PackedFolder) -> dict:
    """List other files, code apart; the folders of members and kits that only one side holds are
    told by `members`.
    """
    both = {*a.members} & {*b.members}
    homes = {f"models/{name}" for name in both} | {
        f"source/kits/{PurePosixPath(name).parts[0]}" for name in both
    }
    told = [
        n
        for n in {*a.files, *b.files}
        if n.startswith(("models/", "source/kits/"))
        and not any(n.startswith(f"{home}/") for home in homes)
    ]
    names = sorted(n for n in {*a.files, *b.files} - {*told} if not n.endswith(f"/{WEIGHTS_FILE}"))
    found = {}
    for kind, some in (
        ("code", [n for n in names if _code(n)]),
        ("files", [n for n in names if not _code(n)]),
    ):
        added, removed = (
            [n for n in some if n not in a.files],
            [n for n in some if n not in b.files],
        )
        changed = [n for n in some if n in a.files and n in b.files and a.files[n] != b.files[n]]
        found[kind] = (
            {"added": added, "removed": removed, "changed": changed}
            if added or removed or changed
            else {}
        )
    return found


def _code(name: str) -> bool:
    return name.startswith(("wbdc/", "source/wbdc/")) or name.endswith(
        (".py", ".sh", ".txt", "Dockerfile")
    )


def _time(latency: dict | None) -> dict:
    return (
        {"verdict": latency["verdict"], "seconds": latency["projection"]["expected"]}
        if latency
        else {}
    )


def _classes(folder: Path) -> list[str]:
    return read_json(folder / read_json(folder / BLEND_FILE)["members"][0]["folder"] / MODEL_FILE)[
        "classes"
    ]


def _changed(a: dict, b: dict) -> dict[str, list]:
    """Pair the values that differ, by name, sorted."""
    return {
        name: [a.get(name), b.get(name)] for name in sorted({*a, *b}) if a.get(name) != b.get(name)
    }


def _pair(a: object, b: object) -> list:
    return [] if a == b else [a, b]


def _largest(x: torch.Tensor, y: torch.Tensor) -> float:
    apart = (x.double() - y.double()).abs()
    return float(apart.nan_to_num(nan=torch.inf, posinf=torch.inf).max()) if apart.numel() else 0.0
