"""Near-duplicate videos, found by hashes of their frames and signatures of their texts."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from wbdc.core.progress import ProgressCallback, no_progress
from wbdc.data.frames import THUMBNAIL_PIXELS

LOW_FREQUENCIES = 8  # a side: 64 coefficients of the cosine transform are hashed
# standard deviation of gray levels below which a frame (black, white, a fade) is not compared
MIN_CONTRAST = 4.0

# First bit and number of bits of each band. A key is 3 of the 6 bands, up to 33 bits.
HASH_BANDS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))
BANDS_PER_KEY = 3
MAX_FRAME_BITS = 4  # different bits of two near-duplicate frames
MAX_ONLY_FRAME_BITS = 2  # the same for a video with a single frame
# A key that more entries share is ignored: it is a logo or a test card.
MAX_ENTRIES_PER_KEY = 64

SIGNATURE_NUMBERS = 24  # of a text
SIGNATURE_BAND_NUMBERS = 3  # texts are compared if all numbers of a band are equal
EMPTY_SIGNATURE = np.uint32(0xFFFFFFFF)
MIN_TEXT_CHARACTERS = 12  # shorter texts are not compared
MAX_TEXT_CHARACTERS = 2000  # longer texts are cut
MIN_TEXT_SIMILARITY = 0.8  # Jaccard similarity of near-duplicate texts

# odd constants that splitmix64 and xxHash multiply by
MIX_1 = np.uint64(0x9E3779B97F4A7C15)
MIX_2 = np.uint64(0xC2B2AE3D27D4EB4F)
MIX_3 = np.uint64(0x165667B19E3779F9)
MIX_4 = np.uint64(0xBF58476D1CE4E5B9)

_angles = np.pi / THUMBNAIL_PIXELS * (np.arange(THUMBNAIL_PIXELS) + 0.5)
# discrete cosine transform: (LOW_FREQUENCIES, THUMBNAIL_PIXELS)
_cosines = np.cos(np.arange(LOW_FREQUENCIES)[:, None] * _angles[None]).astype(np.float32)
# parameters of the hash functions of MinHash: (2, SIGNATURE_NUMBERS)
_multipliers = np.random.default_rng(0).integers(
    1, 2**63, (2, SIGNATURE_NUMBERS), dtype=np.uint64
) | np.uint64(1)
_ignored_characters = re.compile(r"[\W_]+")


def frame_hashes(gray: np.ndarray) -> np.ndarray:
    """Hash thumbnails: (n, 32, 32) uint8 -> (n,) int64, one bit for each low frequency that is
    above the median (pHash; Zauner, 2010).

    The hash of a frame with too little contrast is 0.
    """
    if not len(gray):
        return np.zeros(0, np.int64)
    low = (_cosines @ gray.astype(np.float32) @ _cosines.T).reshape(len(gray), -1)
    low[:, 0] = 0  # mean brightness is ignored
    bits = low > np.median(low[:, 1:], 1, keepdims=True)
    bits[:, 0] = True  # 0 is reserved for frames with too little contrast
    hashes = np.packbits(bits, 1).view(">u8")[:, 0].astype(np.uint64).view(np.int64)
    return np.where(gray.reshape(len(gray), -1).std(1) < MIN_CONTRAST, 0, hashes)


def similar_frames(
    hashes: np.ndarray, rows: np.ndarray, *, progress: ProgressCallback = no_progress
) -> np.ndarray:
    """Find pairs of videos with nearly the same frames: (p, 2) int32, first < second, sorted.

    hashes: (n,) int64 of frames, 0 for a frame that is not compared; rows: (n,) row of the video of
    each frame. Two videos are a pair if at least half of the distinct frames of the video that has
    fewer, and at least two, have a frame within 4 bits in the other video; a single frame must be
    within 2 bits.

    Frames within 3 bits are always compared: they differ in at most three of six bands, so three
    bands are equal (multi-index hashing; Norouzi et al., 2012). Of more than 64 videos with
    identical frames, each is paired with the next.
    """
    has_hash = hashes != 0
    rows, hashes = rows[has_hash].astype(np.int64), hashes[has_hash].view(np.uint64)
    order = np.lexsort((hashes, rows))
    rows, hashes = rows[order], hashes[order]
    distinct = np.r_[True, (rows[1:] != rows[:-1]) | (hashes[1:] != hashes[:-1])][: len(rows)]
    rows, hashes = rows[distinct], hashes[distinct]

    keys = list(combinations(HASH_BANDS, BANDS_PER_KEY))
    codes = _chain_identical_videos(hashes, rows)
    for number, bands in enumerate(keys, 1):
        codes = np.union1d(codes, _pairs_with_equal_bands(hashes, rows, bands))
        progress("near-duplicates", number, len(keys))

    pairs = _decode_pairs(codes)
    return pairs[_have_similar_frames(pairs, hashes, rows)].astype(np.int32)


def text_signature(text: str) -> np.ndarray:
    """Return the MinHash signature of the trigrams of characters of a text: (24,) uint32 (Broder,
    1997).

    The signature of a short text is constant, so that it is not compared.
    """
    normalized = unicodedata.normalize("NFKC", text[: 2 * MAX_TEXT_CHARACTERS]).casefold()
    characters = _ignored_characters.sub("", normalized)[:MAX_TEXT_CHARACTERS]
    if len(characters) < MIN_TEXT_CHARACTERS:
        return np.full(SIGNATURE_NUMBERS, EMPTY_SIGNATURE)

    encoded = characters.encode("utf-32-le", "replace")
    points = np.frombuffer(encoded, np.uint32).astype(np.uint64)
    trigrams = np.unique(
        (points[:-2] << np.uint64(42)) ^ (points[1:-1] << np.uint64(21)) ^ points[2:]
    )
    mixed = (trigrams[:, None] * _multipliers[0] + _multipliers[1]) * _multipliers[0]
    return (mixed >> np.uint64(32)).min(0).astype(np.uint32)


def similar_texts(signatures: np.ndarray) -> np.ndarray:
    """Find pairs of videos with nearly the same text: (n, 24) uint32 -> (p, 2) int32, first <
    second, sorted.
    """
    rows = np.flatnonzero((signatures != EMPTY_SIGNATURE).any(1))
    codes = np.zeros(0, np.int64)
    for start in range(0, SIGNATURE_NUMBERS, SIGNATURE_BAND_NUMBERS):
        band = signatures[rows, start : start + SIGNATURE_BAND_NUMBERS].astype(np.uint64)
        key = band[:, 0] * MIX_1 ^ band[:, 1] * MIX_2 ^ band[:, 2] * MIX_3
        order = np.argsort(key, kind="stable")
        codes = np.union1d(codes, _encode_pairs(*_pairs_with_equal_key(key[order], rows[order])))

    pairs = _decode_pairs(codes)
    similarity = (signatures[pairs[:, 0]] == signatures[pairs[:, 1]]).mean(1)
    return pairs[similarity >= MIN_TEXT_SIMILARITY].astype(np.int32)


def duplicate_groups(count: int, pairs: np.ndarray) -> np.ndarray:
    """Join pairs to groups, also through other rows: the first row of the group of each of `count`
    rows, (count,) int32.
    """
    groups = np.arange(count, dtype=np.int32)
    while len(pairs):
        smaller = np.minimum(groups[pairs[:, 0]], groups[pairs[:, 1]])
        before = groups.copy()
        for side in (0, 1):
            np.minimum.at(groups, groups[pairs[:, side]], smaller)
            np.minimum.at(groups, pairs[:, side], smaller)
        groups = groups[groups]
        if np.array_equal(groups, before):
            break
    return groups


def label_conflicts(
    groups: np.ndarray, labels: Sequence[str | None]
) -> list[tuple[list[int], list[str]]]:
    """List the groups with several labels, the largest first: (rows, labels of the rows)."""
    first_rows, sizes = np.unique(groups, return_counts=True)
    duplicates = np.isin(groups, first_rows[sizes > 1])
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero(duplicates).tolist():
        members.setdefault(int(groups[row]), []).append(row)

    conflicts = [
        (rows, [labels[row] for row in rows])
        for rows in members.values()
        if len({labels[row] for row in rows}) > 1
    ]
    return sorted(conflicts, key=lambda conflict: (-len(conflict[0]), conflict[0]))


def _chain_identical_videos(hashes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pair each video with the next video that has the same set of hashes, two or more: (p,) codes.

    This also finds copies that `MAX_ENTRIES_PER_KEY` would ignore. Frames are sorted by row.
    """
    if not len(rows):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    counts = np.diff(np.r_[starts, len(rows)])
    videos = rows[starts]

    # a sum does not depend on the order; collisions are removed by `_have_similar_frames`
    mixed = hashes * MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(29))) * MIX_4
    key = np.add.reduceat(mixed, starts)

    several = counts >= 2
    key, videos = key[several], videos[several]
    order = np.lexsort((videos, key))
    same = key[order][1:] == key[order][:-1]
    return _encode_pairs(videos[order][:-1][same], videos[order][1:][same])


def _pairs_with_equal_bands(
    hashes: np.ndarray, rows: np.ndarray, bands: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Pair videos with frames that are equal in some bands of bits and near in all: (p,) codes."""
    key = np.zeros(len(hashes), np.uint64)
    for start, bits in bands:
        key = (key << np.uint64(bits)) | ((hashes >> np.uint64(start)) & np.uint64(2**bits - 1))
    order = np.argsort(key)
    first, second = _pairs_with_equal_key(key[order], order)

    near = np.bitwise_count(hashes[first] ^ hashes[second]) <= MAX_FRAME_BITS
    first, second = rows[first[near]], rows[second[near]]
    return _encode_pairs(first[first != second], second[first != second])


def _pairs_with_equal_key(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair the rows that share a key, unless too many share it. keys: sorted; rows: in the same
    order.
    """
    first, second = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    if len(keys):
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        sizes = np.diff(np.r_[starts, len(keys)])
        # the end of the entries with which each entry may be paired
        ends = np.repeat(np.where(sizes > MAX_ENTRIES_PER_KEY, starts, starts + sizes), sizes)
        entries = np.flatnonzero(np.arange(1, len(keys) + 1) < ends)
        for step in range(1, MAX_ENTRIES_PER_KEY):
            entries = entries[entries + step < ends[entries]]
            first.append(rows[entries])
            second.append(rows[entries + step])
    return np.concatenate(first), np.concatenate(second)


def _encode_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Write each distinct pair as one number, the smaller row in the upper 32 bits: (p,) int64."""
    return np.unique((np.minimum(first, second).astype(np.int64) << 32) | np.maximum(first, second))


def _decode_pairs(codes: np.ndarray) -> np.ndarray:
    """Return the pairs that `_encode_pairs` wrote: (p, 2) int64."""
    return np.stack([codes >> 32, codes & 0xFFFFFFFF], 1)


def _have_similar_frames(pairs: np.ndarray, hashes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Compare all frames of the videos of each pair: (p,) bool. Frames are sorted by row."""
    starts, ends = (np.searchsorted(rows, pairs, side).tolist() for side in ("left", "right"))
    similar = np.zeros(len(pairs), bool)
    for i, ((start_1, start_2), (end_1, end_2)) in enumerate(zip(starts, ends, strict=True)):
        fewer, more = sorted((hashes[start_1:end_1], hashes[start_2:end_2]), key=len)
        nearest = np.bitwise_count(fewer[:, None] ^ more[None]).min(1)
        similar[i] = (
            nearest[0] <= MAX_ONLY_FRAME_BITS
            if len(fewer) == 1
            else (nearest <= MAX_FRAME_BITS).sum() >= max(2, len(fewer) / 2)
        )
    return similar
