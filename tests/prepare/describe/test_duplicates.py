"""Near-duplicates: changed copies of a frame are found, other frames are not, common ones are
ignored.
"""

import io

import numpy as np
import pytest
import small
from PIL import Image, ImageEnhance

from wbdc.core.findings import Findings
from wbdc.data.frames import probe_image
from wbdc.prepare.describe import duplicates
from wbdc.prepare.describe.duplicates import (
    duplicate_groups,
    frame_hashes,
    label_conflicts,
    similar_frames,
    similar_texts,
    text_signature,
)


def distance(first: bytes, second: bytes) -> int:
    """Count the bits in which the hashes of two encoded images differ."""
    hash_1, hash_2 = frame_hashes(
        np.stack([probe_image(data, Findings())[2] for data in (first, second)])
    )
    return int(np.bitwise_count(np.uint64(hash_1.view(np.uint64) ^ hash_2.view(np.uint64))))


def scene(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).resize(
        (240, 160), Image.Resampling.BICUBIC
    )


CHANGES = {
    "quality 40": lambda image: small.encode(image, quality=40),
    "smaller": lambda image: small.encode(image.resize((120, 80)), quality=80),
    "brighter": lambda image: small.encode(
        ImageEnhance.Brightness(image).enhance(1.08), quality=80
    ),
    "PNG": lambda image: small.encode(image, "PNG"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_of_an_image_have_similar_hashes(change):
    for seed in range(8):
        assert (
            distance(small.encode(scene(seed), quality=90), CHANGES[change](scene(seed)))
            <= duplicates.MAX_FRAME_BITS
        )


def test_different_images_have_different_hashes():
    encoded = [small.encode(scene(seed)) for seed in range(12)]
    assert (
        min(distance(a, b) for i, a in enumerate(encoded) for b in encoded[:i])
        > 2 * duplicates.MAX_FRAME_BITS
    )


@pytest.mark.parametrize("level", [0, 20, 255])
def test_a_frame_without_contrast_is_not_compared(level):
    gray = np.full((1, 32, 32), level, np.uint8)
    assert frame_hashes(gray).tolist() == [0]
    assert frame_hashes(np.zeros((0, 32, 32), np.uint8)).shape == (0,)
    gray[0, :16] = 128 if level != 128 else 0
    assert frame_hashes(gray)[0] != 0


def flip_bits(value: int, *bits: int) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


def compare_all_frames(videos: list[list[int]]) -> list[list[int]]:
    """Find pairs by comparing every frame with every other frame."""
    pairs = []
    for i, a in enumerate(videos):
        for j in range(i + 1, len(videos)):
            fewer, more = sorted(({h for h in a if h}, {h for h in videos[j] if h}), key=len)
            best = [min((bin(x ^ y).count("1") for y in more), default=64) for x in fewer]
            if len(fewer) == 1:
                is_pair = best[0] <= 2
            else:
                is_pair = bool(fewer) and sum(b <= 4 for b in best) >= max(2, len(fewer) / 2)
            if is_pair:
                pairs.append([i, j])
    return pairs


def find_pairs(videos: list[list[int]]) -> list[list[int]]:
    hashes = np.array([h for video in videos for h in video], np.uint64).view(np.int64)
    owner = np.repeat(np.arange(len(videos), dtype=np.int32), [len(v) for v in videos])
    return similar_frames(hashes, owner).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_pairs_equal_those_of_a_full_comparison(seed):
    """Each pair here has at least one frame within 3 bits, which is always compared."""
    rng = np.random.default_rng(seed)
    videos = [[int(h) for h in rng.integers(1, 2**63, rng.integers(0, 6))] for _ in range(40)]
    for i in range(0, 30, 3):
        videos[i] = [
            flip_bits(h, *rng.choice(64, rng.integers(0, 4), replace=False).tolist())
            for h in videos[i + 1]
        ] + [0] * (i % 2)
    pairs = find_pairs(videos)
    assert pairs == compare_all_frames(videos)
    assert len(pairs) >= 6


def test_fault_20_black_frames_and_logos_do_not_make_pairs():
    rng = np.random.default_rng(0)
    videos = [[0, 0, 77, 78, *(int(h) for h in rng.integers(1, 2**63, 2))] for _ in range(200)]
    assert find_pairs(videos) == []
    assert find_pairs([[], [0], [0]]) == []


def test_similar_texts_are_paired():
    base = "今天天气真好我们一起去公园散步看见了很多漂亮的花和鸟大家都很开心希望明天也是晴天"
    texts = [
        base,
        base + "！！ 😀",
        base.replace("明天", "后天"),
        "这是完全不同的一句话讲的是怎样在家里做一顿好吃的晚饭步骤很简单",
        "早安",
        "早安",
        "",
        "",
    ]
    pairs = similar_texts(np.stack([text_signature(text) for text in texts])).tolist()
    assert [0, 1] in pairs
    assert all(a < b < 3 for a, b in pairs)
    assert np.array_equal(
        text_signature("ＡＢＣ１２３ xyz 标题标题标题"), text_signature("abc123XYZ，标题标题标题")
    )
    assert text_signature("\ud800" + base).dtype == np.uint32
    assert similar_texts(np.stack([text_signature("")] * 3)).shape == (0, 2)


def test_a_text_of_many_videos_does_not_make_pairs():
    assert (
        len(
            similar_texts(
                np.stack([text_signature("关注我们领取更多精彩内容谢谢大家的支持")] * 100)
            )
        )
        == 0
    )


@pytest.mark.parametrize("seed", range(5))
def test_groups_equal_those_of_a_union_find(seed):
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 60, (40, 2))
    parent = list(range(60))

    def root(i: int) -> int:
        return i if parent[i] == i else root(parent[i])

    for a, b in pairs.tolist():
        a, b = sorted((root(a), root(b)))
        parent[b] = a
    assert duplicate_groups(60, pairs).tolist() == [root(i) for i in range(60)]
    assert duplicate_groups(3, np.zeros((0, 2), int)).tolist() == [0, 1, 2]


def test_contradictory_labels_are_listed():
    group = np.array([0, 0, 2, 3, 3, 3, 6, 6])
    assert label_conflicts(group, ["a", "b", "a", "c", "c", "d", "e", "e"]) == [
        ([3, 4, 5], ["c", "c", "d"]),
        ([0, 1], ["a", "b"]),
    ]


def test_hashes_do_not_depend_on_the_image_format():
    stream = io.BytesIO()
    scene(3).save(stream, "WEBP", lossless=True)
    assert distance(stream.getvalue(), small.encode(scene(3), "PNG")) == 0


def test_any_number_of_copies_of_a_video_is_one_group():
    rng = np.random.default_rng(0)
    copied, unique = rng.integers(1, 2**62, 5), rng.integers(1, 2**62, (40, 5))
    hashes = np.concatenate([np.tile(copied, 100), unique.ravel()])
    owner = np.repeat(np.arange(140, dtype=np.int32), 5)
    shuffled = rng.permutation(len(hashes))
    pairs = similar_frames(hashes[shuffled], owner[shuffled])
    assert len(pairs) == 99
    assert np.array_equal(
        duplicate_groups(140, pairs), np.r_[np.zeros(100, int), np.arange(100, 140)]
    )


def test_an_only_frame_of_many_videos_does_not_make_pairs():
    assert len(similar_frames(np.full(100, 12345678901), np.arange(100, dtype=np.int32))) == 0
