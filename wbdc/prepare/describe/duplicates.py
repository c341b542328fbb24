"""Near-duplicates: which videos are (nearly) the same, by perceptual hashes of their frames and by
signatures of their texts.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

SIDE, LOW = 32, 8  # of a thumbnail; of the low frequencies that a hash keeps
# standard deviation of gray levels under which a frame (black, white, a fade) tells nothing
FLAT = 4.0
BANDS = (
    (0, 11),
    (11, 11),
    (22, 11),
    (33, 11),
    (44, 10),
    (54, 10),
)  # first bit and bits; any 3 of the 6 give a key of up to 33 bits
NEAR, ALONE = (
    4,
    2,
)  # bits by which frames that are alike may differ; where a video has one frame only
CROWD = 64  # entries that share a key and are then no evidence: logos, test cards
NUMBERS, ROWS = 24, 3  # of a text's signature; of one band of it
SILENT = np.uint32(0xFFFFFFFF)
SHORT, LONG = 12, 2000  # characters: too few to tell, and all that are read
ALIKE = 0.8  # Jaccard similarity of texts

_angles = np.pi / SIDE * (np.arange(SIDE) + 0.5)
_COSINES = np.cos(np.arange(LOW)[:, None] * _angles[None]).astype(
    np.float32
)  # (LOW, SIDE): the discrete cosine transform
_SPIN = np.random.default_rng(0).integers(1, 2**63, (2, NUMBERS), dtype=np.uint64) | np.uint64(
    1
)  # the hash functions of MinHash
_KEPT = re.compile(r"[\W_]+")

Progress = Callable[[str, int, int], None]


def frame_hashes(gray: np.ndarray) -> np.ndarray:
    """Hash thumbnails, (n, 32, 32) uint8 -> (n,) int64: a bit for each low frequency above the
    median (pHash; Zauner, 2010).

    0 stands for a frame that tells nothing.
    """
    if not len(gray):
        return np.zeros(0, np.int64)
    low = (_COSINES @ gray.astype(np.float32) @ _COSINES.T).reshape(len(gray), -1)
    low[:, 0] = 0  # the mean brightness says nothing
    bits = low > np.median(low[:, 1:], 1, keepdims=True)
    bits[:, 0] = True  # so that no telling frame is 0
    hashes = np.packbits(bits, 1).view(">u8")[:, 0].astype(np.uint64).view(np.int64)
    return np.where(gray.reshape(len(gray), -1).std(1) < FLAT, 0, hashes)


def similar_frames(
    hashes: np.ndarray, owner: np.ndarray, *, progress: Progress = lambda what, done, of: None
) -> np.ndarray:
    """Find pairs of videos with the same pictures: (p, 2) int32, first < second, in order.

    hashes: (n,) int64 of frames; owner: (n,) row of each one's video. Alike are two videos when at
    least half of the telling, distinct
    frames of the one that has fewer, and at least two, have a frame within 4 bits in the other; an
    only frame must be within 2 bits.
    Frames within 3 bits always meet: six bands differ in three at most, so three are equal
    (multi-index hashing; Norouzi et al., 2012).
    Of more than 64 videos with the very same frames each is paired with the next.
    """
    telling = hashes != 0
    owner, hashes = owner[telling].astype(np.int64), hashes[telling].view(np.uint64)
    order = np.lexsort((hashes, owner))
    owner, hashes = owner[order], hashes[order]
    distinct = np.r_[True, (owner[1:] != owner[:-1]) | (hashes[1:] != hashes[:-1])][: len(owner)]
    owner, hashes = owner[distinct], hashes[distinct]
    choices, found = list(combinations(BANDS, 3)), _copies(hashes, owner)
    for number, bands in enumerate(choices):
        found = np.union1d(found, _meet(hashes, owner, bands))
        progress("near-duplicates", number + 1, len(choices))
    pairs = np.stack([found >> 32, found & 0xFFFFFFFF], 1)
    return pairs[_verified(pairs, hashes, owner)].astype(np.int32)


def text_signature(text: str) -> np.ndarray:
    """Sketch a text by the least hashes of its runs of three characters: (24,) uint32 (MinHash;
    Broder, 1997). Short texts tell nothing.
    """
    kept = _KEPT.sub("", unicodedata.normalize("NFKC", text[: 2 * LONG]).casefold())[:LONG]
    if len(kept) < SHORT:
        return np.full(NUMBERS, SILENT)
    points = np.frombuffer(kept.encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    runs = np.unique((points[:-2] << np.uint64(42)) ^ (points[1:-1] << np.uint64(21)) ^ points[2:])
    mixed = (runs[:, None] * _SPIN[0] + _SPIN[1]) * _SPIN[0]
    return (mixed >> np.uint64(32)).min(0).astype(np.uint32)


def similar_texts(signatures: np.ndarray) -> np.ndarray:
    """Find pairs of videos whose texts are nearly the same: (n, 24) uint32 -> (p, 2) int32, first <
    second, in order.
    """
    rows, found = np.flatnonzero((signatures != SILENT).any(1)), np.zeros(0, np.int64)
    for band in range(0, NUMBERS, ROWS):
        keys = signatures[rows, band : band + ROWS].astype(np.uint64)
        key = (
            keys[:, 0] * np.uint64(0x9E3779B97F4A7C15)
            ^ keys[:, 1] * np.uint64(0xC2B2AE3D27D4EB4F)
            ^ keys[:, 2] * np.uint64(0x165667B19E3779F9)
        )
        order = np.argsort(key, kind="stable")
        found = np.union1d(found, _coded(*_within(key[order], rows[order])))
    pairs = np.stack([found >> 32, found & 0xFFFFFFFF], 1)
    return pairs[(signatures[pairs[:, 0]] == signatures[pairs[:, 1]]).mean(1) >= ALIKE].astype(
        np.int32
    )


def duplicate_groups(count: int, pairs: np.ndarray) -> np.ndarray:
    """Join what is alike, directly or through others: the group of each of `count` rows, named by
    its first row, (count,) int32.
    """
    group = np.arange(count, dtype=np.int32)
    while len(pairs):
        least = np.minimum(group[pairs[:, 0]], group[pairs[:, 1]])
        before = group.copy()
        for side in (0, 1):
            np.minimum.at(group, group[pairs[:, side]], least)
            np.minimum.at(group, pairs[:, side], least)
        group = group[group]
        if np.array_equal(group, before):
            break
    return group


def label_conflicts(
    group: np.ndarray, labels: Sequence[str | None]
) -> list[tuple[list[int], list[str]]]:
    """List groups whose members bear different labels, the largest first: (rows, their labels)."""
    names, sizes = np.unique(group, return_counts=True)
    several = np.isin(group, names[sizes > 1])
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero(several).tolist():
        members.setdefault(int(group[row]), []).append(row)
    found = [
        (rows, [labels[row] for row in rows])
        for rows in members.values()
        if len({labels[row] for row in rows}) > 1
    ]
    return sorted(found, key=lambda one: (-len(one[0]), one[0]))


def _copies(hashes: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Code a chain through the videos that own the very same hashes, two or more: however many they
    are, they are copies.
    """
    starts = (
        np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]]) if len(owner) else np.zeros(0, int)
    )
    counts, videos = np.diff(np.r_[starts, len(owner)]), owner[starts]
    if not len(starts):
        return np.zeros(0, np.int64)
    mixed = hashes * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    key = np.add.reduceat(
        mixed, starts
    )  # of a set: the order does not count; `_verified` looks at the frames themselves
    several = counts >= 2
    key, videos = key[several], videos[several]
    order = np.lexsort((videos, key))
    same = key[order][1:] == key[order][:-1]
    return _coded(videos[order][:-1][same], videos[order][1:][same])


def _meet(hashes: np.ndarray, owner: np.ndarray, bands: Sequence[tuple[int, int]]) -> np.ndarray:
    """Code the pairs of videos that own frames which are equal in some bands of bits, and near in
    all.
    """
    key = np.zeros(len(hashes), np.uint64)
    for first, bits in bands:
        key = (key << np.uint64(bits)) | ((hashes >> np.uint64(first)) & np.uint64(2**bits - 1))
    order = np.argsort(key)
    first, second = _within(key[order], order)
    near = np.bitwise_count(hashes[first] ^ hashes[second]) <= NEAR
    first, second = owner[first[near]], owner[second[near]]
    return _coded(first[first != second], second[first != second])


def _within(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair the rows that share a key: keys sorted, rows in the same order. A key of a crowd is no
    evidence and pairs nobody.
    """
    first, second = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    if len(keys):
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        sizes = np.diff(np.r_[starts, len(keys)])
        ends = np.repeat(
            np.where(sizes > CROWD, starts, starts + sizes), sizes
        )  # behind the last row that each may be paired with
        at = np.flatnonzero(np.arange(1, len(keys) + 1) < ends)
        for step in range(1, CROWD):
            at = at[at + step < ends[at]]
            first.append(rows[at])
            second.append(rows[at + step])
    return np.concatenate(first), np.concatenate(second)


def _coded(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Write each pair, smaller row first, as one number; each once."""
    return np.unique((np.minimum(first, second).astype(np.int64) << 32) | np.maximum(first, second))


def _verified(pairs: np.ndarray, hashes: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Tell which pairs of videos are alike by all their frames: (p,) bool. Frames lie in order of
    their owners.
    """
    begin, end = (np.searchsorted(owner, pairs, side) for side in ("left", "right"))
    good = np.zeros(len(pairs), bool)
    for i, ((a, b), (c, d)) in enumerate(zip(begin.tolist(), end.tolist())):
        few, many = sorted((hashes[a:c], hashes[b:d]), key=len)
        near = np.bitwise_count(few[:, None] ^ many[None]).min(1)
        good[i] = (
            near[0] <= ALONE if len(few) == 1 else (near <= NEAR).sum() >= max(2, len(few) / 2)
        )
    return good
