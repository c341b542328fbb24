"""A synthetic contest in the layout and with the class frequencies of the WeChat Big Data
Challenge 2022: annotations, archives of frames, and the hidden test labels.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wbdc.competitions.wechat2022 import CLASS_COUNTS_FILE
from wbdc.core.errors import UsageFault
from wbdc.core.files import publish_bytes, publish_json, read_json, read_text
from wbdc.prepare.demo import scenes, sounds, speech, texts

SPLIT_SHARES = {"labeled": 0.55, "unlabeled": 0.25, "test": 0.20}
MIN_VIDEOS = 40
COPY_SHARE = 0.02  # share of the videos that are near-duplicates of another video
CLASSES_PER_SCENE = 2
LABELED_VIDEOS_PER_CLASS = 12
MIN_CLASSES, MAX_CLASSES = 12, 200
MAX_SECONDS = 32
SETTINGS_FILE = "demo.json"  # settings of the data in a folder
# Rates at which a modality is missing. A video without any text counts for all three fields.
NO_TEXT_RATE = 0.01
MISSING_TEXT_RATES = {"title": 0.01, "asr": 0.19, "ocr": 0.24}
MISSING_FRAMES_RATE = 0.03


class ClassTraits(NamedTuple):
    """What identifies a class: words by topic and pair (two classes of a pair have the same
    words), and a scene (which classes of different topics share).
    """

    topic: int
    pair: int
    scene: int


class ContestPlan(NamedTuple):
    """All that is decided before the first video is generated; each field has n entries.

    source: the index of the video, or of the video that it copies; missing: flags by modality
    ("title", "asr", "ocr", "frames").
    """

    ids: list[str]
    splits: list[str]
    labels: list[str]
    seconds: np.ndarray
    source: np.ndarray
    missing: dict[str, np.ndarray]


def generate_contest(
    into: Path,
    *,
    videos: int = 1000,
    seed: int = 0,
    sound: bool = False,
    wav: bool = False,
    with_speech: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Write a synthetic dataset below `into`; return its settings and the number of videos of each
    split, classes and copies.

    `data/` is what a team receives; `truth/` holds the classes of the test split and the pairs of
    near-duplicates. Of all videos, 55 % are labeled, 25 % unlabeled and 20 % test. The classes are
    the most frequent ones of the contest, one for every 12 labeled videos (12 to 200 classes), with
    the contest's frequencies. Missing: title 2 %, asr 20 %, ocr 25 %, all text 1 %, frames 3 % (an
    archive without members). 2 % of the videos are near-duplicates of another video in any split.

    sound: also write features of the sound of each video, but 5 % of them, the file that defines a
    contest with sound, and a kit for it. wav: with sound, write .wav files in place of features,
    and kits for towers that read them. with_speech: also write speech tokens of each video, but 5 %
    of them, a contest with them, and a kit for it. All other files stay the same.

    Equal seed and count give equal bytes (with one version of numpy and Pillow). Raises UsageFault
    for fewer than 40 videos, a negative seed, or a folder that holds other data.
    """
    settings = {"videos": videos, "seed": seed, **({"sound": True} if sound else {})}
    settings |= {"wav": True} if wav else {}
    settings |= {"speech": True} if with_speech else {}
    _claim_folder(into, settings)
    plan, traits = _plan_contest(videos, seed), class_traits()
    sound_of = class_sounds()

    items: dict[str, list[dict]] = {split: [] for split in SPLIT_SHARES}
    for index, (video_id, split, label) in enumerate(
        zip(plan.ids, plan.splits, plan.labels, strict=True)
    ):
        item, archive = _generate_video(plan, traits[label], index, seed)
        answer = {"category_id": label} if split == "labeled" else {}
        items[split].append({"id": video_id, **item, **answer})
        folder = into / "data" / "zip_frames" / split / video_id[-3:]
        publish_bytes(folder / f"{video_id}.zip", archive)
        if sound:
            _write_sound(into, plan, index, sound_of[label], seed, wav)
        if with_speech:
            _write_speech(into, plan, index, sound_of[label], seed)
        progress(index + 1, videos)

    for split, rows in items.items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        publish_bytes(into / "data" / "annotations" / f"{split}.json", f"[\n{lines}\n]\n".encode())
    copies = _write_truth(into / "truth", plan)
    if sound:
        publish_bytes(into / sounds.SOUND_CONTEST_FILE, sounds.SOUND_CONTESTS[wav].encode())
        for name, kit in sounds.sound_kits(wav).items():
            publish_bytes(into / name, kit.encode())
    if with_speech:
        publish_bytes(into / speech.SPEECH_CONTEST_FILE, speech.SPEECH_CONTEST.encode())
        publish_bytes(into / speech.SPEECH_KIT_FILE, speech.SPEECH_KIT.encode())

    counts = {split: len(rows) for split, rows in items.items()}
    return {**settings, **counts, "classes": len(set(plan.labels)), "copies": copies}


def class_traits() -> dict[str, ClassTraits]:
    """Assign traits to every class of the contest, the most frequent first, so that the classes of
    a small dataset are also hard to distinguish.

    In order of frequency, two classes of a topic form a pair with the same words. A scene goes to
    `CLASSES_PER_SCENE` classes of different topics.
    """
    topic_sizes: Counter[str] = Counter()
    scene_topics: list[list[str]] = []  # topics that already have a class in a scene
    traits = {}
    for label in _classes_by_frequency():
        topic = label[:2]
        free = (
            scene
            for scene, topics in enumerate(scene_topics)
            if len(topics) < CLASSES_PER_SCENE and topic not in topics
        )
        scene = next(free, len(scene_topics))
        if scene == len(scene_topics):
            scene_topics.append([])
        scene_topics[scene].append(topic)
        traits[label] = ClassTraits(int(topic), topic_sizes[topic] // 2, scene % scenes.SCENES)
        topic_sizes[topic] += 1
    return traits


def class_sounds() -> dict[str, int]:
    """Assign a sound to every class of the contest, the most frequent first: of the sounds that no
    class with the same words or the same scene has, the one of the fewest classes.
    """
    counts: Counter[int] = Counter()
    sounds_of: defaultdict[tuple, set[int]] = defaultdict(set)  # of classes with a trait
    sound_of = {}
    for label, traits in class_traits().items():
        shared = [("words", traits.topic, traits.pair), ("scene", traits.scene)]
        excluded = set().union(*(sounds_of[trait] for trait in shared))
        free = [sound for sound in range(sounds.SOUNDS) if sound not in excluded]
        sound = min(free, key=lambda sound: counts[sound])
        for trait in shared:
            sounds_of[trait].add(sound)
        counts[sound] += 1
        sound_of[label] = sound
    return sound_of


def _claim_folder(into: Path, settings: dict) -> None:
    """Mark the folder before the first file is written, so that real data are never overwritten."""
    if settings["videos"] < MIN_VIDEOS:
        raise UsageFault(
            f"{settings['videos']} videos are too few for a contest; use {MIN_VIDEOS} or more"
        )
    if settings["seed"] < 0:
        raise UsageFault(f"the seed is {settings['seed']}; use 0 or more")

    path = into / SETTINGS_FILE
    existing = read_json(path) if path.is_file() else None
    if existing not in (None, settings):
        raise UsageFault(
            f"{into} holds a synthetic contest of {existing['videos']} videos with seed "
            f"{existing['seed']}{_sound_note(existing)}; choose another "
            "folder or remove it"
        )
    if existing is None and any((into / name).exists() for name in ("data", "truth")):
        raise UsageFault(
            f"{into} holds data that were not generated by this command; choose another folder"
        )
    publish_json(path, settings)


def _sound_note(settings: dict) -> str:
    note = ""
    if settings.get("sound"):
        note = " and sound in .wav files" if settings.get("wav") else " and sound"
    return f"{note} and speech" if settings.get("speech") else note


def _class_counts() -> dict[str, int]:
    return json.loads(read_text(CLASS_COUNTS_FILE))


def _classes_by_frequency() -> list[str]:
    counts = _class_counts()
    return sorted(counts, key=lambda label: (-counts[label], label))


def _plan_contest(videos: int, seed: int) -> ContestPlan:
    """Decide splits, classes, lengths, copies and missing modalities. A copy has the class, length
    and modalities of its source.
    """
    rng = np.random.default_rng([seed, videos])
    ends = np.round(np.cumsum(list(SPLIT_SHARES.values())) * videos).astype(int)
    split_numbers = np.searchsorted(ends, rng.permutation(videos), side="right")
    splits = np.array(list(SPLIT_SHARES))[split_numbers]

    counts = _class_counts()
    class_count = int(np.clip(ends[0] // LABELED_VIDEOS_PER_CLASS, MIN_CLASSES, MAX_CLASSES))
    classes = _classes_by_frequency()[:class_count]
    frequencies = np.array([counts[label] for label in classes], dtype=float)

    seconds = rng.lognormal(1.95, 0.6, size=videos).round().clip(1, MAX_SECONDS).astype(int)
    no_text = rng.random(videos) < NO_TEXT_RATE
    missing = {
        field: no_text | (rng.random(videos) < rate) for field, rate in MISSING_TEXT_RATES.items()
    }
    missing["frames"] = rng.random(videos) < MISSING_FRAMES_RATE

    copies, sources = rng.permutation(videos)[: 2 * round(COPY_SHARE * videos)].reshape(2, -1)
    source = np.arange(videos)
    source[copies] = sources
    missing["frames"][[*copies, *sources]] = False  # near-duplicates need frames to be found
    labels = rng.choice(classes, size=videos, p=frequencies / frequencies.sum())[source]
    return ContestPlan(
        _random_ids(rng, videos),
        splits.tolist(),
        labels.tolist(),
        seconds[source],
        source,
        {modality: flags[source] for modality, flags in missing.items()},
    )


def _random_ids(rng: np.random.Generator, count: int) -> list[str]:
    """Generate unique ids of 20 digits: a multiplication by a number that is coprime to the range
    is a permutation.
    """
    size, start = 9 * 10**19, int(rng.integers(10**18))
    return [
        str(10**19 + (start + index) * 61_803_398_874_989_484_821 % size) for index in range(count)
    ]


def _generate_video(
    plan: ContestPlan, traits: ClassTraits, index: int, seed: int
) -> tuple[dict, bytes]:
    """Generate one video as a function of the seed, its index and the index of its source: the
    annotation without id and class, and the archive.
    """
    source, seconds = int(plan.source[index]), int(plan.seconds[index])
    copy_rng = np.random.default_rng([seed, index, 0])
    text_rng = np.random.default_rng([seed, source, 1])
    scene_rng = np.random.default_rng([seed, source, 2])

    words = texts.class_words(traits.topic, traits.pair)
    item = texts.compose_texts(text_rng, words, seconds)
    item |= {field: type(item[field])() for field in item if plan.missing[field][index]}  # "" or []
    captions = {entry["time"]: entry["text"] for entry in item["ocr"]}
    quality = int(scene_rng.integers(70, 91))
    frame_count = 0 if plan.missing["frames"][index] else seconds
    frames = scenes.draw_frames(scene_rng, traits.scene, frame_count, captions)
    if index != source:
        item["title"] = texts.edit_title(copy_rng, item["title"])
        quality = int(copy_rng.integers(45, 96))
        frames = scenes.crop_and_resize(copy_rng, frames)
    return item, scenes.zip_frames(frames, quality)


def _write_sound(
    into: Path, plan: ContestPlan, index: int, sound: int, seed: int, wav: bool
) -> None:
    """Write the file of the sound of a video, if it has any: a function of the seed and the index
    of its source.
    """
    rng = np.random.default_rng([seed, int(plan.source[index]), 3])
    content = sounds.draw_sound(rng, sound, int(plan.seconds[index]), wav=wav)
    _write_modality(into, sounds.WAV_PATH if wav else sounds.FEATURE_PATH, plan, index, content)


def _write_speech(into: Path, plan: ContestPlan, index: int, sound: int, seed: int) -> None:
    """Write the speech tokens of a video, if it has any, as `_write_sound` does."""
    rng = np.random.default_rng([seed, int(plan.source[index]), 4])
    content = speech.draw_speech(rng, sound, int(plan.seconds[index]))
    _write_modality(into, speech.SPEECH_PATH, plan, index, content)


def _write_modality(
    into: Path, path: str, plan: ContestPlan, index: int, content: bytes | None
) -> None:
    """Write the file of a further modality of a video, unless its content is None."""
    if content is not None:
        path = path.format(split=plan.splits[index], id=plan.ids[index])
        publish_bytes(into / "data" / path, content)


def _write_truth(folder: Path, plan: ContestPlan) -> int:
    """Write the classes of the test split and the pairs of near-duplicates; return their number."""
    test = [
        (video_id, label)
        for video_id, split, label in zip(plan.ids, plan.splits, plan.labels, strict=True)
        if split == "test"
    ]
    copies = [
        (plan.ids[index], plan.ids[source])
        for index, source in enumerate(plan.source)
        if index != source
    ]
    _write_csv(folder / "test_truth.csv", ("id", "category_id"), test)
    _write_csv(folder / "copies.csv", ("id", "copy_of"), copies)
    return len(copies)


def _write_csv(path: Path, header: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    publish_bytes(path, "".join(f"{a},{b}\n" for a, b in (header, *rows)).encode("ascii"))
