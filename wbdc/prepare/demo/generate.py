"""A made-up contest in the real layout: annotations, archives of frames, and the hidden truth
beside them.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wbdc.competitions.wechat2022 import CLASS_COUNTS_FILE
from wbdc.core.errors import UsageFault
from wbdc.core.files import publish_bytes, publish_json, read_json, read_text
from wbdc.prepare.demo import scenes, texts

SPLIT_SHARES = {"labeled": 0.55, "unlabeled": 0.25, "test": 0.20}
COPIES = 0.02  # of all videos repeat another one
MATES = 2  # leaves that look alike
MARK = "demo.json"  # below `into`: the settings of the data that lie there


class Role(NamedTuple):
    """How a leaf can be told: words by topic and pair (two leaves of a pair say the same), looks by
    scene (shared across topics).
    """

    topic: int
    pair: int
    scene: int


class Plan(NamedTuple):
    """What is settled before any video is made, each a row of n entries. origin: the video's own
    index, or that of the one it copies;
    missing: by "title", "asr", "ocr" or "frames"."""

    ids: list[str]
    splits: list[str]
    labels: list[str]
    seconds: np.ndarray
    origin: np.ndarray
    missing: dict[str, np.ndarray]


def generate_contest(
    into: Path,
    *,
    videos: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict:
    """Write a made-up dataset below `into` and return its facts: counts of splits, classes and
    copies.

    `data/` is what a team receives, `truth/` what it does not: the classes of the test split and
    the pairs of near-duplicates.
    Of `videos`, 55 % are labelled, 25 % unlabelled, 20 % test. The classes are the contest's most
    frequent leaves, one for every
    12 labelled videos but 12 to 200 of them, drawn by the contest's counts. Missing: title 2 %, asr
    20 %, ocr 25 %, all three 1 %,
    frames 3 % (an archive without members). 2 % are near-duplicates of another video, in whatever
    split.
    Equal seed and count give equal bytes (with one version of numpy and Pillow); made again it ends
    in the same files.

    Raises UsageFault when `videos` is under 40 or `seed` under 0, or when other data lie below
    `into`.
    """
    settings = {"videos": videos, "seed": seed}
    _claim(into, settings)
    plan, known = _plan(videos, seed), roles()
    items: dict[str, list[dict]] = {split: [] for split in SPLIT_SHARES}
    for index, (name, split, label) in enumerate(
        zip(plan.ids, plan.splits, plan.labels, strict=True)
    ):
        item, frames = _video(plan, known[label], index, seed)
        items[split].append(
            {"id": name, **item} | ({"category_id": label} if split == "labeled" else {})
        )
        publish_bytes(into / "data" / "zip_frames" / split / name[-3:] / f"{name}.zip", frames)
        progress(index + 1, videos)
    for split, rows in items.items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        publish_bytes(into / "data" / "annotations" / f"{split}.json", f"[\n{lines}\n]\n".encode())
    copies = [(plan.ids[i], plan.ids[o]) for i, o in enumerate(plan.origin) if i != o]
    test = [
        (i, c) for i, s, c in zip(plan.ids, plan.splits, plan.labels, strict=True) if s == "test"
    ]
    _table(into / "truth" / "test_truth.csv", ("id", "category_id"), test)
    _table(into / "truth" / "copies.csv", ("id", "copy_of"), copies)
    return (
        settings
        | {split: len(rows) for split, rows in items.items()}
        | {"classes": len(set(plan.labels)), "copies": len(copies)}
    )


def roles() -> dict[str, Role]:
    """Give every leaf of the contest its role, from the most frequent on, so that the leaves of a
    small set confuse each other too.

    Leaves of a top class pair up, in words, in the order of frequency. A scene goes to MATES leaves
    of different top classes.
    """
    met: Counter[str] = Counter()
    hosts: list[list[str]] = []  # top classes by scene
    given = {}
    for leaf in _leaves():
        top = leaf[:2]
        scene = next(
            (s for s, tops in enumerate(hosts) if len(tops) < MATES and top not in tops), len(hosts)
        )
        if scene == len(hosts):
            hosts.append([])
        hosts[scene].append(top)
        given[leaf] = Role(int(top), met[top] // 2, scene % scenes.SCENES)
        met[top] += 1
    return given


def _claim(into: Path, settings: dict[str, int]) -> None:
    """Mark the folder as ours before the first file, so that somebody's real data are never written
    over.
    """
    if settings["videos"] < 40:
        raise UsageFault(
            f"{settings['videos']} videos are too few for splits, classes and copies; ask for 40 or more"
        )
    if settings["seed"] < 0:
        raise UsageFault(f"the seed is {settings['seed']}; give 0 or more")
    found = read_json(into / MARK) if (into / MARK).is_file() else None
    if found not in (None, settings):
        raise UsageFault(
            f"{into} holds made-up data of {found['videos']} videos with seed {found['seed']}; choose another folder or remove it"
        )
    if found is None and any((into / name).exists() for name in ("data", "truth")):
        raise UsageFault(
            f"{into} holds data that were not made by this command; choose another folder"
        )
    publish_json(into / MARK, settings)


def _leaves() -> list[str]:
    """List the leaves, the most frequent first."""
    counts = json.loads(read_text(CLASS_COUNTS_FILE))
    return sorted(counts, key=lambda leaf: (-counts[leaf], leaf))


def _plan(videos: int, seed: int) -> Plan:
    """Settle splits, classes, lengths, copies and gaps. A copy has its origin's class, length and
    gaps.
    """
    rng = np.random.default_rng([seed, videos])
    ends = np.round(np.cumsum(list(SPLIT_SHARES.values())) * videos).astype(int)
    splits = np.array(list(SPLIT_SHARES))[
        np.searchsorted(ends, rng.permutation(videos), side="right")
    ]
    counts, leaves = (
        json.loads(read_text(CLASS_COUNTS_FILE)),
        _leaves()[: int(np.clip(ends[0] // 12, 12, 200))],
    )
    odds = np.array([counts[leaf] for leaf in leaves], dtype=float)
    seconds = rng.lognormal(1.95, 0.6, size=videos).round().clip(1, 32).astype(int)
    silent = rng.random(videos) < 0.01
    missing = {
        kind: silent | (rng.random(videos) < rate)
        for kind, rate in (("title", 0.01), ("asr", 0.19), ("ocr", 0.24))
    }
    missing["frames"] = rng.random(videos) < 0.03
    copy, origin = rng.permutation(videos)[: 2 * round(COPIES * videos)].reshape(2, -1)
    source = np.arange(videos)
    source[copy] = origin
    missing["frames"][[*copy, *origin]] = False  # or there would be nothing to find
    labels = rng.choice(leaves, size=videos, p=odds / odds.sum())[source]
    return Plan(
        _ids(rng, videos),
        splits.tolist(),
        labels.tolist(),
        seconds[source],
        source,
        {k: row[source] for k, row in missing.items()},
    )


def _ids(rng: np.random.Generator, count: int) -> list[str]:
    """Make unique ids of 20 digits: multiplying by a number prime to the range permutes it, so that
    no two meet.
    """
    span, start = 9 * 10**19, int(rng.integers(10**18))
    return [
        str(10**19 + (start + index) * 61_803_398_874_989_484_821 % span) for index in range(count)
    ]


def _video(plan: Plan, role: Role, index: int, seed: int) -> tuple[dict, bytes]:
    """Make one video from (seed, its own or its origin's index) alone: the annotation without id
    and class, and the archive.
    """
    origin, seconds = int(plan.origin[index]), int(plan.seconds[index])
    copied, speech, scene = (
        np.random.default_rng([seed, *key]) for key in ((index, 0), (origin, 1), (origin, 2))
    )
    item = texts.compose_texts(speech, texts.class_words(role.topic, role.pair), seconds)
    item |= {field: type(item[field])() for field in item if plan.missing[field][index]}  # "" or []
    captions = {entry["time"]: entry["text"] for entry in item["ocr"]}
    quality = int(scene.integers(70, 91))
    frames = scenes.draw_frames(
        scene, role.scene, 0 if plan.missing["frames"][index] else seconds, captions
    )
    if index != origin:
        item["title"], quality, frames = (
            texts.edit_title(copied, item["title"]),
            int(copied.integers(45, 96)),
            scenes.repeat_scene(copied, frames),
        )
    return item, scenes.zip_frames(frames, quality)


def _table(path: Path, head: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    publish_bytes(path, "".join(f"{a},{b}\n" for a, b in (head, *rows)).encode("ascii"))
