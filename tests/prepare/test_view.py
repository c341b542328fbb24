"""Views: the inputs of a kit equal, bit for bit, those that a submission reads from archives."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import small
import torch
import toys

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import DataFault, IntegrityFault
from wbdc.core.files import json_digest
from wbdc.core.findings import Findings
from wbdc.core.tokens import Tokens
from wbdc.data import store
from wbdc.data.archive import read_features, read_images
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.frames import decode_frames
from wbdc.data.text import TextReader, learn_tokenizer
from wbdc.nets.vision import Vision
from wbdc.prepare import view
from wbdc.prepare.build import prepare_data
from wbdc.prepare.view import InputSpec, encode_frames, open_view

FIELDS = {"title": 8, "asr": 8, "ocr": 8}
TOKENIZER = learn_tokenizer(["标题字幕说话 speech"] * 2)


def input_spec(
    image_settings=small.IMAGE_SETTINGS, frames: int = 3, **settings: object
) -> InputSpec:
    return InputSpec(
        TextReader(TOKENIZER, **{"fields": FIELDS, "length": 40} | settings),
        image_settings,
        frames,
    )


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Prepare data with every kind of archive: damaged frames, links, 40 frames, no frames; return
    the dataset and the data folder.
    """
    monkeypatch.setattr(store, "SHARD_VIDEOS", 4)
    root = small.root(tmp_path / "data")
    names = small.ids("labeled")
    photos = small.photos(40)
    photos[7], photos[20], photos[39] = b"", photos[20][:100], b"no picture"
    small.pack(small.archive(root, "labeled", names[5]), small.frames(photos))
    small.pack(
        small.archive(root, "labeled", names[6]),
        {
            "10.jpg": photos[0],
            "2.png": small.encode(small.image(), "PNG"),
            "a/1.jpg": photos[1],
            "readme.txt": b"x",
        },
    )
    small.archive(root, "labeled", names[7]).write_bytes(b"no archive")
    small.archive(root, "labeled", names[8]).unlink()
    return prepare_data(root, tmp_path / "work", WeChat2022(), folds=3)[0], root


def read_archives(root, split: str, spec: InputSpec) -> list[tuple[list[int], np.ndarray]]:
    """Read annotations and archives with the functions that a submission ships."""
    findings = Findings()
    videos = list(WeChat2022().videos(root, split, Findings()))
    frames = [
        read_features(v.source, spec.frames, findings)
        if spec.image_settings is None
        else decode_frames(
            read_images(v.source, spec.frames, findings), spec.image_settings, findings
        )
        for v in videos
    ]
    return list(zip(spec.text([v.fields for v in videos]), frames, strict=True))


def assert_equal(rows, expected) -> None:
    for i, (ids, frames) in enumerate(expected):
        text, pixels = rows[i][:2]
        assert text.tolist() == ids
        assert pixels.dtype == frames.dtype
        assert np.array_equal(pixels, frames.reshape(len(frames), *pixels.shape[1:]))


@pytest.mark.parametrize("frames", [1, 3, 8, 32])
@pytest.mark.parametrize("store", ["raw", "encoded"])
def test_trap_03_training_and_submission_read_equal_inputs(dataset, monkeypatch, store, frames):
    """With raw pixels and with decoding in each epoch; damaged frames keep their positions."""
    prepared, root = dataset
    monkeypatch.setattr(view, "_fits_disk", lambda *_: store == "raw")
    spec = input_spec(frames=frames)
    for split in small.SPLITS:
        rows = open_view(prepared, spec, split)
        assert (rows.computed is None) == (store == "encoded")
        assert_equal(rows, read_archives(root, split, spec))


@pytest.mark.parametrize("threads", [1, 4])
def test_trap_11_a_view_depends_only_on_data_and_input_spec(dataset, threads):
    prepared, _ = dataset
    calls = []
    open_view(
        prepared,
        input_spec(),
        "labeled",
        threads=threads,
        progress=lambda *call: calls.append(call),
    )
    folder = prepared.folder / "views" / input_spec().name()
    before = {p: p.read_bytes() for p in folder.rglob("*.safetensors")}
    assert calls[-1] == ("view of labeled", 12, 12)
    assert len(before) == 6
    open_view(prepared, input_spec(), "labeled", progress=lambda *call: calls.append("second"))
    assert "second" not in calls
    shutil.rmtree(folder)
    open_view(prepared, input_spec(), "labeled", threads=2)
    assert {p: p.read_bytes() for p in folder.rglob("*.safetensors")} == before


def test_a_killed_view_continues_with_the_next_shard(dataset):
    prepared, root = dataset
    open_view(prepared, input_spec(), "labeled")
    folder = prepared.folder / "views" / input_spec().name()
    (folder / "pixels" / "labeled-00001.safetensors").unlink()
    (folder / "text" / "labeled-00002.safetensors").unlink()
    (folder / "pixels" / ".labeled-00001.safetensors.9.tmp").write_bytes(b"half")
    shards = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    assert_equal(
        open_view(prepared, input_spec(), "labeled"), read_archives(root, "labeled", input_spec())
    )
    assert all(p.stat().st_mtime_ns == modified for p, modified in shards.items())
    assert not list(folder.rglob(".*.tmp"))


OTHER_SPECS = {
    "size": input_spec(image_settings=small.IMAGE_SETTINGS._replace(size=16)),
    "interpolation": input_spec(
        image_settings=small.IMAGE_SETTINGS._replace(interpolation="bilinear")
    ),
    "squash": input_spec(image_settings=small.IMAGE_SETTINGS._replace(squash=True)),
    "resize": input_spec(image_settings=small.IMAGE_SETTINGS.with_resize("fast")),
    "frames": input_spec(frames=4),
    "length": input_spec(length=41),
    "budgets": input_spec(fields=FIELDS | {"ocr": 9}),
    "fewer fields": input_spec(fields={"title": 8}),
    "order of the fields": input_spec(fields=dict(reversed(FIELDS.items()))),
    "tail": input_spec(tail=["asr"]),
    "words": InputSpec(
        TextReader(learn_tokenizer(["另"] * 2), fields=FIELDS, length=40), small.IMAGE_SETTINGS, 3
    ),
    "features": input_spec(image_settings=None),
}


@pytest.mark.parametrize("other", OTHER_SPECS)
def test_another_input_spec_has_another_view(other):
    """The order of fields counts too, which a sorted JSON object would lose."""
    assert OTHER_SPECS[other].name() != input_spec().name() == input_spec().name()


def test_views_keep_the_names_from_before_images_could_be_squashed_or_resized_fast():
    spec, squashed = input_spec(), OTHER_SPECS["squash"]
    text = [
        TOKENIZER.to_str(),
        list(FIELDS.items()),
        40,
        [],
        spec.text.tokenizer.encode_special_tokens,
    ]
    settings = small.IMAGE_SETTINGS
    older = [settings.size, settings.mean, settings.std, settings.interpolation, settings.short]
    assert spec.name() == json_digest(text, older, spec.frames)
    assert squashed.name() == json_digest(text, [*older, True], spec.frames)


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_fast_pixels_of_a_view_equal_those_that_a_submission_reads(dataset, store):
    prepared, root = dataset
    spec = OTHER_SPECS["resize"]
    view = open_view(prepared, spec, "test", store=store)
    assert_equal(view, read_archives(root, "test", spec))
    exact = open_view(prepared, input_spec(), "test")
    assert any(not np.array_equal(view[i][1], exact[i][1]) for i in range(len(view.text.lengths)))


def test_fields_are_read_in_the_order_of_the_input_spec(dataset):
    prepared, root = dataset
    for spec in (input_spec(), OTHER_SPECS["order of the fields"]):
        assert_equal(open_view(prepared, spec, "test"), read_archives(root, "test", spec))


@pytest.mark.parametrize("frames", [1, 2, 32])
def test_features_of_the_data_end_to_end(tmp_path, frames):
    root = small.features(tmp_path / "data")
    prepared, _ = prepare_data(root, tmp_path / "work", WeChat2022(), folds=3)
    spec = input_spec(image_settings=None, frames=frames)
    rows = open_view(prepared, spec, "labeled")
    assert rows.computed is None
    assert [len(rows[i][1]) for i in range(5)] == [len(sample_frames(n, frames)) for n in range(5)]
    assert rows[0][1].shape == (0, 6)
    assert_equal(rows, read_archives(root, "labeled", spec))


def test_a_kit_that_needs_another_frame_format_is_refused(dataset, tmp_path):
    feats, _ = prepare_data(
        small.features(tmp_path / "feats"), tmp_path / "w", WeChat2022(), folds=3
    )
    for prepared, image_settings, message in (
        (
            dataset[0],
            None,
            "the data hold jpeg, but the kit's vision plug reads features; choose another",
        ),
        (
            feats,
            small.IMAGE_SETTINGS,
            "the data hold features, but the kit's vision plug reads images",
        ),
    ):
        with pytest.raises(DataFault, match=message):
            open_view(prepared, input_spec(image_settings=image_settings), "labeled")


def test_data_with_121_faults_are_read_equally_in_training_and_inference(real_data, tmp_path):
    root = real_data / "nasty" / "wbdc_root" / "data"
    prepared, _ = prepare_data(root, tmp_path / "work", WeChat2022(), folds=2)
    for split in prepared.facts.video_counts:
        assert_equal(
            open_view(prepared, input_spec(), split), read_archives(root, split, input_spec())
        )


def test_a_frame_damaged_after_prepare_is_an_error(small_root, tmp_path):
    prepared, _ = prepare_data(small_root, tmp_path, WeChat2022(), folds=3)
    rows = open_view(prepared, input_spec(), "labeled", store="jpeg")
    shard = prepared.folder / "frames" / "labeled-00000.safetensors"
    at = shard.read_bytes().index(b"\xff\xd8\xff") + 200
    with shard.open("r+b") as file:
        file.seek(at)
        file.write(bytes(300))
    with pytest.raises(IntegrityFault, match="were damaged after `wbdc prepare`: row"):
        list(map(rows.__getitem__, range(12)))


KINDS = ["text", "pixels", "vision_features", "features", "jpeg"]


@pytest.mark.parametrize("kind", KINDS)
def test_fault_10_a_flipped_byte_in_any_shard_is_reported_and_the_shard_rebuilt(tmp_path, kind):
    """The size is unchanged; the last byte belongs to a value that training reads."""
    root = (small.features if kind == "features" else small.root)(tmp_path / "data")
    prepared, _ = prepare_data(root, tmp_path / "work", WeChat2022(), folds=3)
    spec = input_spec(image_settings=None if kind == "features" else small.IMAGE_SETTINGS)
    options = {"store": "raw" if kind == "pixels" else "jpeg"}
    if kind == "vision_features":
        tower = toys.model().vision
        spec = InputSpec(spec.text, tower.image_settings, spec.frames, tower)
    stored = kind in ("features", "jpeg")

    open_view(prepared, spec, "labeled", **options)
    folder = (
        prepared.folder / "frames" if stored else prepared.folder / "views" / spec.name() / kind
    )
    shard = folder / "labeled-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    command = f"`wbdc prepare --data {root} .*`" if stored else "the same command"
    message = f"{shard} is damaged: .*; delete this file and run {command} again"
    with pytest.raises(IntegrityFault, match=message):
        open_view(prepared, spec, "labeled", **options)

    shard.unlink()
    if stored:
        prepared, _ = prepare_data(root, tmp_path / "work", WeChat2022(), folds=3)
    open_view(prepared, spec, "labeled", **options)
    assert shard.read_bytes() == whole


def test_a_frozen_tower_encodes_under_no_grad_without_inference_tensors():
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
        inference_vectors = encode_frames(tower, frames)
    assert all(np.array_equal(a, b) for a, b in zip(vectors, inference_vectors, strict=True))


class VideoTower(Vision):
    """Two vectors of each frame, the means of its video and of the frame: videos must not mix."""

    dim, tokens_per_frame = 1, 2
    image_settings = small.IMAGE_SETTINGS

    def __init__(self):
        super().__init__(frames=4, frozen=True)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, frames, mask, frame_counts=()):
        means = frames.float().mean((2, 3, 4)) * mask * self.scale
        of_video = means.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        vectors = torch.stack([of_video.expand_as(means), means], 2)
        return Tokens(vectors.flatten(1)[..., None], mask.repeat_interleave(2, 1))


def test_a_frozen_tower_encodes_each_video_by_itself_with_p_vectors_for_each_frame():
    frames = toys.videos((3, 0, 4, 1, 2, 4))[2]
    vectors = encode_frames(VideoTower(), frames)
    assert [v.shape for v in vectors] == [(2 * len(f), 1) for f in frames]
    for video, features in zip(frames, vectors, strict=True):
        if len(video):
            np.testing.assert_allclose(features[::2], video.mean(), rtol=1e-3)
            np.testing.assert_allclose(features[1::2, 0], video.mean((1, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize("vision", ["clip", "torchvision_video"])
def test_cached_features_equal_those_that_the_model_encodes(vision, monkeypatch):
    monkeypatch.setattr(view, "FEATURE_BATCH_FRAMES", 8)
    model, batch = toys.model(vision=vision), toys.batch()
    cached = encode_frames(model.vision, toys.videos()[2])
    encoded = model.encode(batch)
    assert tuple(map(len, cached)) == encoded.frame_counts
    for row, features in enumerate(cached):
        expected = encoded.frames[row, : len(features)].detach().half()
        torch.testing.assert_close(torch.from_numpy(features), expected)


def test_the_name_of_a_view_holds_the_settings_of_its_tower():
    spec = input_spec()
    spec = InputSpec(spec.text, spec.image_settings, spec.frames, toys.model(frozen=True).vision)
    architecture = toys.VIT | {"quick_gelu": True}  # changes features, but has no weights
    other = toys.model(frozen=True, architecture=architecture).vision
    assert replace(spec, tower=other).name() != spec.name()


def test_opening_a_view_hashes_each_shard_once(dataset, monkeypatch):
    prepared, _ = dataset
    monkeypatch.setattr(view, "_fits_disk", lambda *_: True)
    open_view(prepared, input_spec(), "labeled")

    paths, content_hash = [], store._content_hash
    monkeypatch.setattr(
        store, "_content_hash", lambda path: (paths.append(path), content_hash(path))[1]
    )
    open_view(prepared, input_spec(), "labeled")
    assert len(paths) == len(set(paths)) == 9  # 3 shards each of text, pixels and stored frames
