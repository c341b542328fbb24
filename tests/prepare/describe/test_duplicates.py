"""Near-duplicates: the same picture under other bytes is found, other pictures are not, and what
everybody shows is no evidence.
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
    """Bits in which the hashes of two encoded pictures differ."""
    one, other = frame_hashes(
        np.stack([probe_image(data, Findings())[2] for data in (first, second)])
    )
    return int(np.bitwise_count(np.uint64(one.view(np.uint64) ^ other.view(np.uint64))))


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
def test_the_same_picture_has_nearly_the_same_hash(change):
    for seed in range(8):
        assert (
            distance(small.encode(scene(seed), quality=90), CHANGES[change](scene(seed)))
            <= duplicates.MAX_FRAME_BITS
        )


def test_other_pictures_have_other_hashes():
    encoded = [small.encode(scene(seed)) for seed in range(12)]
    assert (
        min(distance(a, b) for i, a in enumerate(encoded) for b in encoded[:i])
        > 2 * duplicates.MAX_FRAME_BITS
    )


@pytest.mark.parametrize("level", [0, 20, 255])
def test_a_flat_frame_tells_nothing(level):
    gray = np.full((1, 32, 32), level, np.uint8)
    assert frame_hashes(gray).tolist() == [0]
    assert frame_hashes(np.zeros((0, 32, 32), np.uint8)).shape == (0,)
    gray[0, :16] = 128 if level != 128 else 0
    assert frame_hashes(gray)[0] != 0


def near(value: int, *bits: int) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


def longhand(videos: list[list[int]]) -> list[list[int]]:
    """Compare every frame with every other."""
    found = []
    for i, a in enumerate(videos):
        for j in range(i + 1, len(videos)):
            few, many = sorted(({h for h in a if h}, {h for h in videos[j] if h}), key=len)
            best = [min((bin(x ^ y).count("1") for y in many), default=64) for x in few]
            if few and (
                best[0] <= 2 if len(few) == 1 else sum(b <= 4 for b in best) >= max(2, len(few) / 2)
            ):
                found.append([i, j])
    return found


def of(videos: list[list[int]]) -> list[list[int]]:
    hashes = np.array([h for video in videos for h in video], np.uint64).view(np.int64)
    owner = np.repeat(np.arange(len(videos), dtype=np.int32), [len(v) for v in videos])
    return similar_frames(hashes, owner).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_those_of_comparing_everything(seed):
    """Frames within 3 bits always meet; pairs here have one such frame at least."""
    rng = np.random.default_rng(seed)
    videos = [[int(h) for h in rng.integers(1, 2**63, rng.integers(0, 6))] for _ in range(40)]
    for i in range(0, 30, 3):
        videos[i] = [
            near(h, *rng.choice(64, rng.integers(0, 4), replace=False).tolist())
            for h in videos[i + 1]
        ] + [0] * (i % 2)
    found = of(videos)
    assert found == longhand(videos)
    assert len(found) >= 6


def test_fault_20_black_frames_and_a_logo_chain_nobody():
    rng = np.random.default_rng(0)
    videos = [[0, 0, 77, 78, *(int(h) for h in rng.integers(1, 2**63, 2))] for _ in range(200)]
    assert of(videos) == []
    assert of([[], [0], [0]]) == []


def test_texts():
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


def test_what_a_crowd_says_is_no_evidence():
    assert (
        len(
            similar_texts(
                np.stack([text_signature("关注我们领取更多精彩内容谢谢大家的支持")] * 100)
            )
        )
        == 0
    )


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_those_of_a_longhand_union(seed):
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 60, (40, 2))
    parent = list(range(60))

    def top(i: int) -> int:
        return i if parent[i] == i else top(parent[i])

    for a, b in pairs.tolist():
        a, b = sorted((top(a), top(b)))
        parent[b] = a
    assert duplicate_groups(60, pairs).tolist() == [top(i) for i in range(60)]
    assert duplicate_groups(3, np.zeros((0, 2), int)).tolist() == [0, 1, 2]


def test_labels_that_contradict_each_other():
    group = np.array([0, 0, 2, 3, 3, 3, 6, 6])
    assert label_conflicts(group, ["a", "b", "a", "c", "c", "d", "e", "e"]) == [
        ([3, 4, 5], ["c", "c", "d"]),
        ([0, 1], ["a", "b"]),
    ]


def test_pictures_hash_alike_whatever_their_container():
    stream = io.BytesIO()
    scene(3).save(stream, "WEBP", lossless=True)
    assert distance(stream.getvalue(), small.encode(scene(3), "PNG")) == 0


def test_however_many_copies_of_a_video_there_are_they_are_one_group():
    rng = np.random.default_rng(0)
    same, others = rng.integers(1, 2**62, 5), rng.integers(1, 2**62, (40, 5))
    hashes, owner = (
        np.concatenate([np.tile(same, 100), others.ravel()]),
        np.repeat(np.arange(140, dtype=np.int32), 5),
    )
    shuffled = rng.permutation(len(hashes))
    pairs = similar_frames(hashes[shuffled], owner[shuffled])
    assert len(pairs) == 99
    assert np.array_equal(
        duplicate_groups(140, pairs), np.r_[np.zeros(100, int), np.arange(100, 140)]
    )


def test_a_crowd_that_shares_its_only_frame_shares_a_logo():
    assert len(similar_frames(np.full(100, 12345678901), np.arange(100, dtype=np.int32))) == 0
