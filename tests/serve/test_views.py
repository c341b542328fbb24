"""Views: several clips and crops of a video are averaged, and priced as what they compute."""

import numpy as np
import pytest
import small
import torch
import toys

from wbdc.competitions import Source, Video
from wbdc.core.errors import UsageFault
from wbdc.core.findings import Findings
from wbdc.data.archive import read_images
from wbdc.data.frames import decode_frames
from wbdc.data.loader import collate
from wbdc.data.resize import plan_geometry
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.member_parts.views import Views, average_views
from wbdc.serve.members import load_member
from wbdc.serve.members.network import Network

CPU = torch.device("cpu")
FRAMES = 4
FRAME_COUNTS = (7, 3, 0, 8, 1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Video]:
    """Videos with more frames than two clips have, fewer, and none; wider than high, or higher."""
    home = tmp_path_factory.mktemp("views")
    videos = []
    for i, count in enumerate(FRAME_COUNTS):
        size = {"width": 48, "height": 36} if i % 2 else {"width": 36, "height": 50}
        encoded = small.photos(count, seed=i, **size)
        path = small.pack(home / f"v{i}.zip", small.frames(encoded))
        videos.append(Video(f"v{i}", {"title": "标题" * i, "asr": ""}, None, Source(path)))
    return videos


def engine_of(folder, **serve) -> InferenceEngine:
    return InferenceEngine([folder], [1.0], CPU, torch.float32, 1, served=[serve])


def longhand(folder, videos, clips: int, crops: int) -> np.ndarray:
    """Average the probabilities of each view, which is read, collated and scored alone."""
    member = load_member(folder)
    settings = member.model.vision.image_settings
    texts = member.encode_text([video.fields for video in videos])
    rows = []
    for video, text in zip(videos, texts, strict=True):
        encoded = read_images(video.source, FRAMES * clips, Findings())
        squares = decode_frames(encoded, settings, Findings(), crops=crops)
        by_frame = squares.reshape(len(encoded), crops, *squares.shape[1:])
        views = [by_frame[j::clips, c] for j in range(clips) for c in range(crops)]
        views = [view for view in views if len(view)] or views[:1]
        probabilities = []
        for view in views:
            batch = collate([video.id], [text], [view])
            with torch.no_grad():
                probabilities.append(member.model.logits(batch).softmax(-1)[0].numpy())
        rows.append(np.mean(probabilities, 0))
    return np.stack(rows)


@pytest.mark.parametrize(("clips", "crops"), [(2, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("tower", [{}, {"patch_grid": 2}])
def test_probabilities_are_the_mean_of_those_of_the_views(tmp_path, videos, clips, crops, tower):
    folder = toys.member(tmp_path, toys.model(frames=FRAMES, **tower))
    serve = {"clips": clips, "crops": crops}
    found = engine_of(folder, **serve).predict(videos).probabilities
    np.testing.assert_allclose(found, longhand(folder, videos, clips, crops), atol=1e-5)
    plain = engine_of(folder).predict(videos).probabilities
    assert np.abs(found - plain)[0].max() > 1e-4
    np.testing.assert_allclose(found[2], plain[2], atol=1e-6), "a video without frames"


def test_views_keep_real_frames_first():
    views = Views(clips=2, crops=3)
    positions = torch.arange(5 * 3).view(1, 15)
    split = views.split(positions)
    assert split.shape == (6, 3)
    assert split[0].tolist() == [0, 6, 12]  # clip 0, crop 0
    assert split[5].tolist() == [5, 11, 0]  # clip 1, crop 2, which has two frames
    assert views.split(positions[:, :0]).shape == (6, 0)
    assert views.split_counts((15, 0, 3)) == (3, 3, 3, 2, 2, 2, *[0] * 6, 1, 1, 1, 0, 0, 0)


def test_views_without_frames_do_not_count_beside_others():
    logits = torch.randn(4, 3)
    has_frames = torch.tensor([True, False, False, False])
    mean = average_views(logits, has_frames, 2).exp()
    torch.testing.assert_close(mean[0], logits[0].softmax(0))
    torch.testing.assert_close(mean[1], logits[2:].softmax(1).mean(0))


def test_three_crops_lie_from_end_to_end_of_the_longer_side():
    settings = load_settings()
    for height, width in ((40, 64), (64, 40)):
        squares = [plan_geometry(height, width, settings, p) for p in (0.0, 0.5, 1.0)]
        long_side = max(squares[0][:2])
        starts = [max(g.first_row, g.first_column) for g in squares]
        assert starts == [0, round((long_side - 32) / 2), long_side - 32]
        assert squares[1] == plan_geometry(height, width, settings)


@pytest.mark.parametrize("vision", toys.VISIONS)
def test_crops_may_be_set_for_every_tower_that_reads_images(vision):
    facts = {"blueprint": {"vision": toys.shared_model(vision=vision).vision.blueprint()}}
    expected = ("clips",) if vision == "features" else ("clips", "crops")
    assert Network.view_settings(facts) == expected


def load_settings():
    return toys.shared_model().vision.image_settings


@pytest.mark.parametrize(
    ("serve", "model", "message"),
    [
        ({"crops": 2}, {}, "crops = 2; it must be 1 or 3"),
        ({"clips": 17}, {}, "clips = 17; it must be between 1 and 16"),
        ({"crops": 3}, {"vision": "features"}, "reads features and no images"),
        ({"crops": 3}, {"image": toys.IMAGE_SETTINGS | {"squash": True}}, "nothing to crop"),
    ],
)
def test_views_that_a_model_cannot_have_are_refused(tmp_path, serve, model, message):
    folder = toys.member(tmp_path, toys.model(**model))
    with pytest.raises(UsageFault, match=message):
        load_member(folder, **serve)
