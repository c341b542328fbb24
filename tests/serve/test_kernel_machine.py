"""Kernel machines on texts and frames serve the numbers of scikit-learn's kernel ridge."""

import json
from pathlib import Path

import numpy as np
import pytest
import toys
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel
from threadpoolctl import threadpool_limits

from wbdc.core.errors import DataFault, IntegrityFault, UsageFault
from wbdc.core.files import publish_json
from wbdc.serve.member_parts.frame_descriptors import DescriptorSettings, describe_video
from wbdc.serve.member_parts.frame_kernel import DescribedVideos, frame_kernel
from wbdc.serve.members import load_member
from wbdc.train.estimator_parts.kernel_machines import fit_kernel_machines, ridge_coefficients
from wbdc.train.estimators import LabeledVideos
from wbdc.train.estimators.joint_kernel import JointKernel

PARENTS = (0, 0, 1, 1, 1)
SMALL = {"size": 16, "cell": 4, "color_levels": 2, "color_grid": 2}
DESCRIPTOR = DescriptorSettings(cell=4, orientations=9, color_levels=2, color_grid=2)


def videos_of(count: int, seed: int) -> tuple[list[dict], list[np.ndarray], np.ndarray]:
    """Texts tell the level-1 class, and brightness tells the class within it; every fifth video has
    no frames.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    texts, frames = [], []
    for number, label in enumerate(labels):
        noise = "".join(random.choice(list("abcdefgh"), 6))
        texts.append({"title": "甲乙"[PARENTS[label]] * 3 + noise, "asr": noise[::-1]})
        video = random.integers(0, 120, (0 if number % 5 == 4 else 1 + number % 2, 3, 16, 16))
        frames.append((video + 130 * (label % 2)).astype(np.uint8))
    return texts, frames, labels


def labeled(texts, frames, labels, parents=PARENTS) -> LabeledVideos:
    folds = np.arange(len(labels)) % 3
    return LabeledVideos(
        texts, labels, folds, len(PARENTS), lambda key: iter(frames), parents=parents
    )


def fit(folder: Path, count: int = 40, **settings) -> tuple:
    """Write a fitted member; return its folder and the training videos."""
    videos = videos_of(count, seed=1)
    fitted = JointKernel(("title", "asr"), **SMALL, **settings).fit(labeled(*videos), seed=0)
    folder.mkdir(parents=True)
    tensors = {name: np.ascontiguousarray(array) for name, array in fitted.tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    serve = {"batch": 4, "precision": "auto"}
    facts = {"member": fitted.kind, "classes": toys.LEAVES[: len(PARENTS)], "serve": serve}
    publish_json(folder / "model.json", facts | fitted.facts)
    return folder, videos, fitted


def predict(member, texts, frames) -> np.ndarray:
    ids = [str(i) for i in range(len(texts))]
    batch = member.collate(ids, member.encode_text(texts), frames)
    return member.logits(batch, None).softmax(-1).numpy()


def longhand_kernel(training: tuple, rows: tuple) -> np.ndarray:
    """The cosine of TF-IDF plus a Gaussian kernel of the frames, by scikit-learn."""

    def joined(video):
        split = TfidfVectorizer(analyzer="char", ngram_range=(1, 3)).build_analyzer()
        fields = [video[field] for field in ("title", "asr") if video[field]]
        return [ngram for field in fields for ngram in split(f" {field} ")]

    vectorizer = TfidfVectorizer(analyzer=joined, sublinear_tf=True).fit(training[0])
    centers, described = (
        np.array([describe_video(video, DESCRIPTOR) for video in videos[1]])
        for videos in (training, rows)
    )
    seen = centers[centers.any(1)]
    distances = ((seen[:, None] - seen) ** 2).sum(2)[np.triu_indices(len(seen), 1)]
    frames = rbf_kernel(described, centers, gamma=1 / np.median(distances))
    frames[~described.any(1)] = 0
    frames[:, ~centers.any(1)] = 0
    return (vectorizer.transform(rows[0]) @ vectorizer.transform(training[0]).T).toarray() + frames


@pytest.mark.parametrize("group_weight", [0.0, 1.5])
def test_served_probabilities_are_those_of_kernel_ridge_regression(tmp_path, group_weight):
    folder, training, _ = fit(tmp_path / "m", penalties=[0.2], group_weight=group_weight)
    member = load_member(folder)
    texts, frames, _ = videos_of(20, seed=2)
    texts += [{"title": "", "asr": ""}]
    frames += [np.zeros((0, 3, 16, 16), np.uint8)]
    labels = training[2]
    kernel = longhand_kernel(training, training)
    kernel_of_rows = longhand_kernel(training, (texts, frames))

    def machine(targets: np.ndarray) -> np.ndarray:
        ridge = KernelRidge(alpha=0.2, kernel="precomputed")
        ridge.fit(kernel, targets - targets.mean())
        return ridge.predict(kernel_of_rows) + targets.mean()

    expected = np.full((21, 5), -np.inf)
    groups = np.array(PARENTS)[labels]
    for label in range(4):
        expected[:, label] = machine(2.0 * (labels == label) - 1)
        expected[:, label] += group_weight * machine(2.0 * (groups == PARENTS[label]) - 1)
    served = predict(member, texts, frames)
    np.testing.assert_allclose(
        served[:, :4] / served[:, :4].sum(1, keepdims=True),
        softmax(member.scale * expected[:, :4], axis=1),
        atol=1e-5,
    )
    assert (served[:, 4] < served[:, :4].min(1)).sum() > 0
    assert len(np.unique(served.round(5), axis=0)) > 18


def test_texts_and_frames_both_decide_and_missing_ones_are_no_error(tmp_path):
    folder, _, fitted = fit(tmp_path / "m", count=80)
    member = load_member(folder)
    texts, frames, labels = videos_of(60, seed=3)
    has_frames = np.array([len(video) > 0 for video in frames])
    answers = predict(member, texts, frames).argmax(1)
    assert (answers == labels)[has_frames].mean() > 0.9
    parents = np.array(PARENTS)
    assert (parents[answers] == parents[labels])[~has_frames].mean() > 0.9
    assert fitted.notes["centers"] == 80
    without_text = predict(member, [{"title": "", "asr": ""}] * 60, frames).argmax(1)
    assert (without_text % 2 == labels % 2)[has_frames].mean() > 0.9


def test_fewer_centers_span_the_kernel_where_they_can():
    """Three features need three centers; the Nystrom approximation is then exact."""
    random = np.random.default_rng(0)
    features = random.normal(size=(30, 3))
    targets = random.normal(size=(30, 2))
    exact, few = (
        next(
            ridge_coefficients(
                features @ features[:m].T, features[:m] @ features[:m].T, targets, (0.5,)
            )
        )
        for m in (30, 5)
    )
    expected = features @ features.T @ exact
    np.testing.assert_allclose(features @ features[:5].T @ few, expected, atol=1e-4)
    direct = np.linalg.solve(features.T @ features + 0.5 * np.eye(3), features.T @ targets)
    np.testing.assert_allclose(expected, features @ direct, atol=1e-8)


def test_centers_are_drawn_when_there_are_too_many_videos(tmp_path):
    folder, (texts, frames, labels), fitted = fit(tmp_path / "m", count=80, max_centers=25)
    assert fitted.tensors["descriptors"].shape[0] == fitted.notes["centers"] == 25
    has_frames = np.array([len(video) > 0 for video in frames])
    answers = predict(load_member(folder), texts, frames).argmax(1)
    assert (answers == labels)[has_frames].mean() > 0.85
    again, _, _ = fit(tmp_path / "again", count=80, max_centers=25)
    name = "model.safetensors"
    assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_a_group_supports_its_classes():
    """Classes 0 and 1 share a group, and only group_weight lets them share what they know."""
    kernel = np.eye(6) + 0.1
    labels = np.array([0, 1, 2, 2, 0, 2])
    arguments = (kernel, kernel, labels, 3)
    alone, grouped, zero = (
        fit_kernel_machines(*arguments, penalties=(0.1,), parents=(0, 0, 1), group_weight=weight)[0]
        for weight in (0.0, 1.0, 0.0)
    )
    groups = fit_kernel_machines(kernel, kernel, np.array([0, 0, 1, 1, 0, 1]), 2, penalties=(0.1,))[
        0
    ]
    expected = alone.weights + groups.weights[:, [0, 0, 1]]
    np.testing.assert_allclose(grouped.weights, expected, atol=1e-12)
    np.testing.assert_allclose(
        grouped.intercept, alone.intercept + groups.intercept[[0, 0, 1]], atol=1e-12
    )
    assert np.array_equal(zero.weights, alone.weights)
    without = fit_kernel_machines(*arguments, penalties=(0.1,), parents=(), group_weight=1.0)[0]
    assert np.array_equal(without.weights, alone.weights), "a contest without groups"


def test_the_penalty_is_the_one_that_held_out_videos_prefer():
    texts, frames, labels = videos_of(60, seed=4)
    settings = SMALL | {"penalties": [1e-3, 100.0]}
    signal = JointKernel(("title", "asr"), **settings).fit(labeled(texts, frames, labels), 0)
    swapped = np.random.default_rng(0).permutation(labels)
    noise = JointKernel(("title", "asr"), **settings).fit(labeled(texts, frames, swapped), 0)
    assert (signal.notes["penalty"], noise.notes["penalty"]) == (1e-3, 100.0)


def test_a_video_without_frames_is_similar_to_none():
    rows = np.zeros((2, 4), np.float32)
    rows[0] = 1
    videos = DescribedVideos.of(rows)
    assert frame_kernel(videos, videos, 2.0).tolist() == [[1, 0], [0, 0]]


def test_defect_served_bits_depend_on_the_threads_of_blas():
    random = np.random.default_rng(0)
    videos = [DescribedVideos.of(random.random((n, 2000), np.float32)) for n in (1, 500)]
    kernels = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            kernels.append(frame_kernel(*videos, 100.0))
    assert kernels[0].tobytes() == kernels[1].tobytes()


def test_data_without_texts_and_frames_are_refused():
    nothing = [{"title": "", "asr": ""}] * 6
    frames = [np.zeros((0, 3, 16, 16), np.uint8)] * 6
    with pytest.raises(DataFault, match="none of the 4 videos to fit has frames, and no n-gram"):
        JointKernel(("title", "asr"), **SMALL).fit(labeled(nothing, frames, np.arange(6) % 2), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalties": []}, "'joint_kernel': penalties is empty"),
        ({"penalties": [0.1, 0.0]}, "penalties = 0; it must be between"),
        ({"size": 20}, "'joint_kernel': size = 20 is not a multiple of cell = 8; set size to 16"),
        ({"char": [3, 1]}, "'joint_kernel': char"),
        ({"max_centers": 1}, "max_centers = 1; it must be between"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(UsageFault) as error:
        JointKernel(("title",), **settings)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["descriptors", "coefficients", "width", "scale", "char.idf"])
def test_arrays_of_a_kernel_machine_that_do_not_fit_are_refused(tmp_path, name):
    folder, _, _ = fit(tmp_path / "m")
    assert json.loads((folder / "model.json").read_text())["member"] == "kernel_machine"
    tensors = load_file(folder / "model.safetensors")
    for change in (tensors[name][:0], np.full_like(tensors[name], np.nan)):
        save_file(tensors | {name: change}, folder / "model.safetensors")
        with pytest.raises(IntegrityFault, match="does not fit model.json"):
            load_member(folder)
