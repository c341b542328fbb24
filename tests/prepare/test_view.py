"""A view: what a kit reads of a dataset equals, bit for bit, what a submission reads of the
archives.
"""

import shutil

import numpy as np
import pytest
import small
import torch
import toys

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import DataInvalid, IntegrityBroken
from wbdc.core.findings import Findings
from wbdc.data import store
from wbdc.data.archive import read_features, read_images
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.frames import decode_frames
from wbdc.data.text import TextReader, learn_tokenizer
from wbdc.prepare import view
from wbdc.prepare.build import prepare_data
from wbdc.prepare.view import InputSpec, encode_frames, open_view

pytestmark = pytest.mark.usefixtures("quick_disk")
FIELDS = {"title": 8, "asr": 8, "ocr": 8}
TOKENIZER = learn_tokenizer(["标题字幕说话 speech"] * 2)


def reading(look=small.LOOK, frames: int = 3, **settings: object) -> InputSpec:
    return InputSpec(
        TextReader(TOKENIZER, **{"fields": FIELDS, "length": 40} | settings), look, frames
    )


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A prepared dataset of a root with every kind of archive: damaged frames, links, more than 32
    frames, none.
    """
    monkeypatch.setattr(store, "SHARD_VIDEOS", 4)
    root = small.root(tmp_path / "data")
    names = small.ids("labeled")
    many = small.photos(40)
    many[7], many[20], many[39] = b"", many[20][:100], b"no picture"
    small.pack(small.archive(root, "labeled", names[5]), small.frames(many))
    small.pack(
        small.archive(root, "labeled", names[6]),
        {
            "10.jpg": many[0],
            "2.png": small.encode(small.image(), "PNG"),
            "a/1.jpg": many[1],
            "readme.txt": b"x",
        },
    )
    small.archive(root, "labeled", names[7]).write_bytes(b"no archive")
    small.archive(root, "labeled", names[8]).unlink()
    return prepare_data(root, tmp_path / "work", WeChat2022(), folds=3)[0], root


def served(root, split: str, how: InputSpec) -> list[tuple[list[int], np.ndarray]]:
    """What the judge's run reads: annotations and archives, through the floors that are shipped."""
    found, videos = Findings(), WeChat2022().videos(root, split, Findings())
    read = [
        read_features(v.source, how.frames, found)
        if how.image_transform is None
        else decode_frames(read_images(v.source, how.frames, found), how.image_transform, found)
        for v in videos
    ]
    return list(zip(how.text([v.fields for v in videos]), read))


def assert_equal(rows, expected) -> None:
    for i, (ids, frames) in enumerate(expected):
        text, pixels = rows[i]
        assert text.tolist() == ids
        assert pixels.dtype == frames.dtype
        assert np.array_equal(pixels, frames.reshape(len(frames), *pixels.shape[1:]))


@pytest.mark.parametrize("frames", [1, 3, 8, 32])
@pytest.mark.parametrize("kept", ["raw", "encoded"])
def test_trap_03_training_reads_what_the_submission_reads(made, monkeypatch, kept, frames):
    """Whether pixels are kept raw or decoded at each visit, with damaged frames in their places."""
    prepared, root = made
    monkeypatch.setattr(view, "_fits_disk", lambda *_: kept == "raw")
    how = reading(frames=frames)
    for split in small.SPLITS:
        rows = open_view(prepared, how, split)
        assert (rows.computed is None) == (kept == "encoded")
        assert_equal(rows, served(root, split, how))


@pytest.mark.parametrize("threads", [1, 4])
def test_trap_11_a_view_is_a_function_of_data_and_reading(made, threads):
    prepared, _ = made
    calls = []
    open_view(
        prepared, reading(), "labeled", threads=threads, progress=lambda *told: calls.append(told)
    )
    folder = prepared.folder / "views" / reading().name()
    before = {p: p.read_bytes() for p in folder.rglob("*.safetensors")}
    assert calls[-1] == ("view of labeled", 12, 12)
    assert len(before) == 6
    open_view(prepared, reading(), "labeled", progress=lambda *told: calls.append("again"))
    assert "again" not in calls
    shutil.rmtree(folder)
    open_view(prepared, reading(), "labeled", threads=2)
    assert {p: p.read_bytes() for p in folder.rglob("*.safetensors")} == before


def test_a_killed_view_goes_on_with_the_next_shard(made):
    prepared, root = made
    open_view(prepared, reading(), "labeled")
    folder = prepared.folder / "views" / reading().name()
    (folder / "pixels" / "labeled-00001.safetensors").unlink()
    (folder / "text" / "labeled-00002.safetensors").unlink()
    (folder / "pixels" / ".labeled-00001.safetensors.9.tmp").write_bytes(b"half")
    kept = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    assert_equal(open_view(prepared, reading(), "labeled"), served(root, "labeled", reading()))
    assert all(p.stat().st_mtime_ns == then for p, then in kept.items())
    assert not list(folder.rglob(".*.tmp"))


OTHER = {
    "size": reading(look=small.LOOK._replace(size=16)),
    "interpolation": reading(look=small.LOOK._replace(interpolation="bilinear")),
    "frames": reading(frames=4),
    "length": reading(length=41),
    "budgets": reading(fields=FIELDS | {"ocr": 9}),
    "fewer fields": reading(fields={"title": 8}),
    "order of the fields": reading(fields=dict(reversed(FIELDS.items()))),
    "tail": reading(tail=["asr"]),
    "words": InputSpec(
        TextReader(learn_tokenizer(["另"] * 2), fields=FIELDS, length=40), small.LOOK, 3
    ),
    "features": reading(look=None),
}


@pytest.mark.parametrize("other", OTHER)
def test_whoever_reads_otherwise_gets_a_view_of_its_own(other):
    """The order of the fields too: as a sorted JSON object it would be lost."""
    assert OTHER[other].name() != reading().name() == reading().name()


def test_fields_are_read_in_the_order_asked_for(made):
    prepared, root = made
    for how in (reading(), OTHER["order of the fields"]):
        assert_equal(open_view(prepared, how, "test"), served(root, "test", how))


@pytest.mark.parametrize("frames", [1, 2, 32])
def test_ready_features_end_to_end(tmp_path, frames):
    root = small.features(tmp_path / "data")
    prepared, _ = prepare_data(root, tmp_path / "work", WeChat2022(), folds=3)
    how = reading(look=None, frames=frames)
    rows = open_view(prepared, how, "labeled")
    assert rows.computed is None
    assert [len(rows[i][1]) for i in range(5)] == [len(sample_frames(n, frames)) for n in range(5)]
    assert rows[0][1].shape == (0, 6)
    assert_equal(rows, served(root, "labeled", how))


def test_a_kit_that_wants_what_the_data_do_not_hold_is_told_so(made, tmp_path):
    feats, _ = prepare_data(
        small.features(tmp_path / "feats"), tmp_path / "w", WeChat2022(), folds=3
    )
    for prepared, look, said in (
        (
            made[0],
            None,
            "the data hold jpeg, but the kit's vision plug reads features; choose another",
        ),
        (feats, small.LOOK, "the data hold features, but the kit's vision plug reads images"),
    ):
        with pytest.raises(DataInvalid, match=said):
            open_view(prepared, reading(look=look), "labeled")


def test_the_nasty_root_reads_alike_in_training_and_at_the_judge(real_data, tmp_path):
    root = real_data / "nasty" / "wbdc_root" / "data"
    prepared, _ = prepare_data(root, tmp_path / "work", WeChat2022(), folds=2)
    for split in prepared.facts.video_counts:
        assert_equal(open_view(prepared, reading(), split), served(root, split, reading()))


def test_a_picture_that_is_damaged_while_it_is_read_is_no_picture_less(small_root, tmp_path):
    prepared, _ = prepare_data(small_root, tmp_path, WeChat2022(), folds=3)
    rows = open_view(prepared, reading(), "labeled", store="jpeg")
    shard = prepared.folder / "frames" / "labeled-00000.safetensors"
    at = shard.read_bytes().index(b"\xff\xd8\xff") + 200
    with shard.open("r+b") as file:
        file.seek(at)
        file.write(bytes(300))
    with pytest.raises(IntegrityBroken, match="were damaged after `wbdc prepare`: row"):
        [rows[i] for i in range(12)]


KINDS = ["text", "pixels", "vision_features", "features", "jpeg"]


@pytest.mark.parametrize("kind", KINDS)
def test_fault_10_a_flipped_byte_in_any_shard_is_found_and_the_file_is_made_again(tmp_path, kind):
    """Sizes stay; the last byte of the data is one of the values that training reads."""
    root = (small.features if kind == "features" else small.root)(tmp_path / "data")
    prepared, _ = prepare_data(root, tmp_path / "work", WeChat2022(), folds=3)
    how, look = (
        reading(look=None if kind == "features" else small.LOOK),
        {"store": "raw" if kind == "pixels" else "jpeg"},
    )
    if kind == "vision_features":
        tower = toys.model().vision
        how = InputSpec(how.text, tower.image_transform, how.frames, tower)
    stored = kind in ("features", "jpeg")

    open_view(prepared, how, "labeled", **look)
    folder = prepared.folder / "frames" if stored else prepared.folder / "views" / how.name() / kind
    shard = folder / "labeled-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    command = f"`wbdc prepare --data {root} .*`" if stored else "the same command"
    said = f"{shard} is damaged: .*; delete this file and run {command} again"
    with pytest.raises(IntegrityBroken, match=said):
        open_view(prepared, how, "labeled", **look)

    shard.unlink()
    if stored:
        prepared, _ = prepare_data(root, tmp_path / "work", WeChat2022(), folds=3)
    open_view(prepared, how, "labeled", **look)
    assert shard.read_bytes() == whole


def test_a_frozen_tower_encodes_under_no_grad_and_makes_no_inference_tensors():
    """Autocast is several times slower under inference_mode; the bits are the same."""
    tower, modes = toys.model().vision, []
    tower.tower.register_forward_hook(
        lambda module, inputs, output: modes.append(
            (torch.is_grad_enabled(), output.is_inference())
        )
    )

    frames = toys.videos()[2]
    vectors = encode_frames(tower, frames)
    assert modes
    assert set(modes) == {(False, False)}

    with torch.inference_mode():
        again = encode_frames(tower, frames)
    assert all(np.array_equal(a, b) for a, b in zip(vectors, again, strict=True))


def test_opening_a_view_hashes_each_shard_once(made, monkeypatch):
    prepared, _ = made
    monkeypatch.setattr(view, "_fits_disk", lambda *_: True)
    open_view(prepared, reading(), "labeled")

    paths, content_hash = [], store._content_hash
    monkeypatch.setattr(
        store, "_content_hash", lambda path: (paths.append(path), content_hash(path))[1]
    )
    open_view(prepared, reading(), "labeled")
    assert len(paths) == len(set(paths)) == 9  # 3 shards each of text, pixels and stored frames
