"""The engine predicts as training does, encodes once for shared towers, and tolerates damage."""

from collections import Counter

import numpy as np
import pytest
import small
import torch
import toys

from wbdc.competitions import Source, Video
from wbdc.core.errors import IntegrityFault, OutOfResources, ResultFault
from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.data.archive import read_images
from wbdc.data.frames import decode_frames
from wbdc.data.loader import batch_by_length, collate
from wbdc.nets.model import VideoClassifier
from wbdc.nets.vision import Vision
from wbdc.serve import reader
from wbdc.serve.blend import blend_probabilities
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.members import load_member
from wbdc.serve.predict import predict_probabilities

CPU = torch.device("cpu")
FRAME_COUNTS = (3, 9, 1, 0, 12, 8)  # of the videos; the toys read 8


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Video]:
    """Six videos: plain ones, one without frames, one without words."""
    home = tmp_path_factory.mktemp("videos")
    videos = []
    for i, count in enumerate(FRAME_COUNTS):
        path = small.pack(home / f"v{i}.zip", small.frames(small.photos(count, seed=i)))
        videos.append(
            Video(
                f"v{i}",
                {"title": "标题字幕" * i, "asr": "一二三" if i % 2 else ""},
                None,
                Source(path),
            )
        )
    return videos


def run(folders, videos, weights=None, precision=torch.float32, threads=1):
    return InferenceEngine(
        folders, weights or [1.0] * len(folders), CPU, precision, threads
    ).predict(videos)


def test_weights_by_class_blend_each_class_on_its_own(tmp_path, videos):
    folders = [toys.member(tmp_path / str(i), toys.model(seed=i)) for i in range(2)]
    members = [run([folder], videos).probabilities for folder in folders]
    weights = np.random.default_rng(0).uniform(0.1, 1, (2, toys.CLASSES))
    engine = InferenceEngine(
        folders, [0.5, 0.5], CPU, torch.float32, 1, class_weights=weights.tolist()
    )
    blended = sum(w * p for w, p in zip(weights, members, strict=True)) / weights.sum(0)
    np.testing.assert_allclose(engine.predict(videos).probabilities, blended, rtol=1e-5)


def sharing(first, seed: int, fusion: str = "dual_stream", **settings):
    """Another model with the tower of `first`."""
    other = toys.model(fusion, seed=seed, **settings)
    other.vision.load_state_dict(first.vision.state_dict())
    return other


@pytest.mark.parametrize(
    ("fusion", "batch"), [*((fusion, 8) for fusion in toys.FUSIONS), ("dual_stream", 2)]
)
def test_the_engine_predicts_as_the_evaluation_of_training(tmp_path, videos, fusion, batch):
    folder = toys.member(tmp_path, toys.model(fusion), fusion, batch=batch)
    member, findings = load_member(folder), Findings()
    settings, rows = member.model.vision.image_settings, {}
    frames = [decode_frames(read_images(v.source, 8, findings), settings, findings) for v in videos]
    text = member.text([v.fields for v in videos])
    for group in batch_by_length([sum(map(len, v.fields.values())) for v in videos], batch):
        batch_of_group = collate(
            [videos[i].id for i in group], [text[i] for i in group], [frames[i] for i in group]
        )
        rows |= dict(
            zip(
                group.tolist(),
                predict_probabilities(member.model, [batch_of_group], CPU, torch.float32).numpy(),
                strict=True,
            )
        )
    predictions = run([folder], videos)
    assert np.array_equal(
        predictions.probabilities, np.stack([rows[i] for i in range(len(videos))])
    ), "bit for bit, in the order of the videos"
    assert predictions.classes == toys.LEAVES
    assert {"read", "decode", "vision", "fuse"} <= set(predictions.stages)


@pytest.fixture
def counted(monkeypatch) -> Counter:
    """How often frames were decoded and encoded."""
    counts, forward, decode = Counter(), Vision.forward, reader.decode_frames
    monkeypatch.setattr(
        Vision,
        "forward",
        lambda self, *arguments: counts.update(["encodes"]) or forward(self, *arguments),
    )
    monkeypatch.setattr(
        reader,
        "decode_frames",
        lambda encoded, *arguments: (
            counts.update({"decodes": 1, "frames": len(encoded)}) or decode(encoded, *arguments)
        ),
    )
    return counts


@pytest.mark.parametrize("patch_grid", [None, 2])
def test_trap_31_members_with_one_tower_decode_and_encode_once(
    tmp_path, videos, counted, patch_grid
):
    first = toys.model(patch_grid=patch_grid)
    folders = [
        toys.member(tmp_path / "0", first),
        *(
            toys.member(tmp_path / use, sharing(first, i, use, patch_grid=patch_grid), use)
            for i, use in enumerate(toys.FUSIONS, 1)
        ),
    ]
    weights = list(range(1, len(folders) + 1))
    together = run(folders, videos, weights).probabilities
    assert counted == {"encodes": 1, "decodes": 6, "frames": sum(min(n, 8) for n in FRAME_COUNTS)}
    alone = [run([folder], videos).probabilities for folder in folders]
    assert np.array_equal(together, blend_probabilities(alone, weights))
    assert len({a.tobytes() for a in alone}) == len(folders)


def test_towers_of_different_weights_share_only_the_decoding(tmp_path, videos, counted):
    run([toys.member(tmp_path / str(seed), toys.model(seed=seed)) for seed in range(3)], videos)
    assert counted["encodes"] == 3
    assert counted["decodes"] == 6


OTHER_SETTINGS = {
    "mean": {"mean": [0.1, 0.1, 0.1]},
    "interpolation": {"interpolation": "bicubic"},
    "resize": {"resize": "fast"},
}


@pytest.mark.parametrize("change", OTHER_SETTINGS)
def test_trap_10_members_with_another_image_settings_decode_their_own_frames(
    tmp_path, videos, counted, change
):
    first = toys.model()
    second = sharing(first, 1, image=toys.IMAGE_SETTINGS | OTHER_SETTINGS[change])
    assert (
        second.vision.image_settings
        != first.vision.image_settings
        == ImageSettings.from_table(toys.IMAGE_SETTINGS)
    )
    folders = [toys.member(tmp_path / "0", first), toys.member(tmp_path / "1", second)]
    together = run(folders, videos).probabilities
    assert counted["encodes"] == 2
    assert counted["decodes"] == 12
    assert np.array_equal(
        together, blend_probabilities([run([f], videos).probabilities for f in folders], [1, 1])
    )


def test_members_with_fewer_frames_sample_their_own(tmp_path, videos, counted):
    first = toys.model()
    run(
        [
            toys.member(tmp_path / "0", first),
            toys.member(tmp_path / "1", sharing(first, 1, frames=2)),
        ],
        videos,
    )
    assert counted["encodes"] == 2
    assert counted["frames"] == sum(min(n, 8) + min(n, 2) for n in FRAME_COUNTS)


@pytest.mark.parametrize("modality", ["text", "frames"])
def test_a_member_trained_without_a_modality_ignores_it(tmp_path, videos, modality):
    first = toys.model()
    folders = [
        toys.member(tmp_path / "0", first),
        toys.member(tmp_path / "1", first, without=modality),
    ]
    whole, less = (run([f], videos).probabilities for f in folders)
    assert not np.array_equal(whole, less)
    assert np.array_equal(
        run(folders, videos).probabilities, blend_probabilities([whole, less], [1, 1])
    )
    bare = [
        v._replace(fields=dict.fromkeys(v.fields, ""))
        if modality == "text"
        else v._replace(source=Source(tmp_path / "nowhere.zip"))
        for v in videos
    ]
    if modality == "frames":
        assert np.allclose(run([folders[1]], bare).probabilities, less, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 3])
def test_trap_11_repeated_predictions_are_equal_bit_for_bit(tmp_path, videos, threads):
    folder = toys.member(tmp_path, toys.model(), batch=2)
    assert (
        run([folder], videos, threads=threads).probabilities.tobytes()
        == run([folder], videos).probabilities.tobytes()
    )


def test_fault_18_videos_with_missing_or_broken_archives_are_predicted_and_counted(
    tmp_path, videos
):
    folder = toys.member(tmp_path / "m", toys.model())
    (tmp_path / "torn.zip").write_bytes(videos[0].source.path.read_bytes()[:100])
    damaged = small.pack(
        tmp_path / "damaged.zip", {"1.jpg": small.photos(1)[0], "2.jpg": b"no picture"}
    )
    sources = [Source(tmp_path / "nowhere.zip"), Source(tmp_path / "torn.zip"), Source(damaged)]
    bad = [
        Video(f"bad{i}", {"title": "", "asr": "字幕" if i else ""}, None, source)
        for i, source in enumerate(sources)
    ]
    predictions = run([folder], [*videos, *bad])
    assert predictions.probabilities.shape == (9, toys.CLASSES)
    assert np.isfinite(predictions.probabilities).all()
    np.testing.assert_allclose(predictions.probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        predictions.probabilities[:6], run([folder], videos).probabilities, rtol=1e-4, atol=1e-6
    )
    findings = predictions.findings
    assert findings["archive.missing"]["count"] == 1
    assert findings["archive.broken"]["count"] == 1
    assert findings["archive.empty"]["count"] == 1
    assert sum(entry["count"] for code, entry in findings.items() if code.startswith("frame.")) == 1


def test_an_empty_split_gives_no_predictions(tmp_path):
    assert run([toys.member(tmp_path, toys.model())], []).probabilities.shape == (0, toys.CLASSES)


@pytest.mark.parametrize("weight", ["vision.tower.proj", "project.0.weight", "head.weight"])
def test_fault_25_a_batch_that_overflows_in_half_precision_is_computed_in_fp32(
    tmp_path, videos, weight
):
    model = toys.model()
    dict(model.named_parameters())[weight].data.mul_(1e6)
    folder = toys.member(tmp_path, model)
    assert np.array_equal(
        run([folder], videos, precision=torch.float16).probabilities,
        run([folder], videos).probabilities,
    )


def test_fault_25_scores_that_are_not_finite_in_fp32_are_an_error(tmp_path, videos):
    engine = InferenceEngine([toys.member(tmp_path, toys.model())], [1.0], CPU, torch.float16, 1)
    engine.members[0].model.head.bias.data[2] = float("nan")
    with pytest.raises(
        ResultFault,
        match="6 videos of a batch have scores that are not finite, even in fp32, first v",
    ):
        engine.predict(videos)


def test_members_with_different_classes_are_refused(tmp_path):
    folders = [
        toys.member(tmp_path / "0", toys.model()),
        toys.member(tmp_path / "1", toys.model(), classes=toys.LEAVES[::-1]),
    ]
    with pytest.raises(IntegrityFault, match="different classes"):
        InferenceEngine(folders, [1, 1], CPU, torch.float32, 1)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_serving_computes_under_no_grad_and_makes_no_inference_tensors(tmp_path, videos, precision):
    """Autocast is several times slower under inference_mode; the bits are the same."""
    folder, modes = toys.member(tmp_path, toys.model()), []
    engine = InferenceEngine([folder], [1.0], CPU, precision, 1)
    parts = (engine.members[0].model.vision.tower, engine.members[0].model.head)

    for part in parts:
        part.register_forward_hook(
            lambda module, inputs, output: modes.append(
                (torch.is_inference_mode_enabled(), torch.is_grad_enabled(), output.is_inference())
            )
        )

    scored = engine.predict(videos).probabilities
    assert len(modes) >= 2
    assert set(modes) == {(False, False, False)}

    model, batch = engine.members[0].model, toys.batch()
    direct = predict_probabilities(model, [batch], CPU, precision)
    assert not direct.is_inference()
    assert set(modes) == {(False, False, False)}
    with torch.inference_mode():
        assert torch.equal(predict_probabilities(model, [batch], CPU, precision), direct)
        assert np.array_equal(engine.predict(videos).probabilities, scored)


def lack_memory(monkeypatch, fits: int) -> list[int]:
    """Let towers and fusions run out of memory on more than `fits` videos; return the sizes that
    were tried.
    """
    fuse, sizes = VideoClassifier.fuse, []

    def fuse_or_fail(self, batch):
        sizes.append(len(batch))
        if len(batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fuse(self, batch)

    monkeypatch.setattr(VideoClassifier, "fuse", fuse_or_fail)
    return sizes


def test_fault_23_a_batch_that_does_not_fit_is_computed_in_parts(tmp_path, videos, monkeypatch):
    first = toys.model()
    folders = [
        toys.member(tmp_path / "a", first),
        toys.member(tmp_path / "b", sharing(first, 1)),
        toys.member(tmp_path / "c", toys.model(seed=2)),
    ]
    whole = run(folders, videos).probabilities
    member, batch = load_member(folders[0]), toys.batch()
    alone = predict_probabilities(member.model, [batch], CPU, torch.float32)
    sizes = lack_memory(monkeypatch, fits=2)
    np.testing.assert_allclose(run(folders, videos).probabilities, whole, rtol=1e-4, atol=1e-6)
    assert sizes[:2] == [6, 3]
    assert set(sizes[2:]) <= {1, 2}
    torch.testing.assert_close(
        predict_probabilities(member.model, [batch], CPU, torch.float32),
        alone,
        rtol=1e-4,
        atol=1e-6,
    )


def test_fault_23_a_batch_that_never_fits_is_exit_9(tmp_path, videos, monkeypatch):
    folder = toys.member(tmp_path, toys.model())
    lack_memory(monkeypatch, fits=0)
    with pytest.raises(
        OutOfResources,
        match="(a batch of 6 videos does not fit, alone|even in 8 parts); lower serve.batch",
    ) as caught:
        run([folder], videos)
    assert caught.value.code == 9
