"""A linear reference: a linear SVM on TF-IDF of character 1- to 3-grams of the text.

    wbdc prepare --data emojizh/data --work work
    python benchmarks/linear_reference.py --work work --truth emojizh/truth/test_truth.csv
    python benchmarks/linear_reference.py --work work --frames

Needs scikit-learn. With --frames, the decision values of a second SVM are added, which reads
histograms of oriented gradients and of colors of the frames. Out of fold, each fold of the prepared
data is predicted by SVMs that were fitted to the other folds; the test split, by those fitted to
all labeled videos. The text fields are joined by spaces. The score is over all classes of the data;
the official one over the labels that occur.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

from wbdc.cli import console, shared_options
from wbdc.core.errors import DataFault
from wbdc.core.files import read_text
from wbdc.core.image_settings import ImageSettings
from wbdc.prepare.dataset import PreparedData, open_prepared
from wbdc.prepare.view import stored_frames
from wbdc.serve.member_parts.frame_descriptors import DescriptorSettings, describe_video

PIXELS = ImageSettings(48, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
FRAMES = 8
DESCRIPTORS = DescriptorSettings(cell=8, orientations=9, color_levels=4, color_grid=4)


class Videos(NamedTuple):
    """The videos of a split.

    ids: of each; labels: (n,), None where unknown; inputs: the texts (n,), and the descriptors of
    the frames (n, V) if they are read.
    """

    ids: list[str]
    labels: np.ndarray
    inputs: list[np.ndarray]


class LinearReference:
    """A linear SVM for each input; their decision values are added.

    min_df: texts that an n-gram must occur in.
    """

    def __init__(self, min_df: int = 1):
        self.min_df = min_df

    def fit(self, inputs: Sequence[np.ndarray], labels: np.ndarray) -> "LinearReference":
        """inputs: texts (n,), and (n, V) features if there are any; labels: (n,) of str."""
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=self.min_df)
        self.machines: list[Pipeline] = [
            make_pipeline(vectorizer, LinearSVC()),
            *(make_pipeline(LinearSVC()) for _ in inputs[1:]),
        ]
        for machine, values in zip(self.machines, inputs, strict=True):
            machine.fit(values, labels)
        return self

    def predict(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the labels, (n,)."""
        pairs = zip(self.machines, inputs, strict=True)
        decisions = sum(machine.decision_function(values) for machine, values in pairs)
        return self.machines[0].classes_[decisions.argmax(1)]


def read_videos(prepared: PreparedData, split: str, with_frames: bool = False) -> Videos:
    """Read the texts of a split, and with_frames the descriptors of its frames."""
    table = prepared.read_split(split)
    rows = table.select(prepared.facts.text_fields).rows()
    inputs = [np.array([" ".join(row) for row in rows], object)]
    if with_frames:
        frames = stored_frames(prepared, split, np.arange(len(table)), PIXELS, FRAMES)
        inputs.append(np.stack([describe_video(video, DESCRIPTORS) for video in frames]))
    return Videos(table["id"].to_list(), np.array(table["label"].to_list(), object), inputs)


def predict_out_of_fold(videos: Videos, folds: np.ndarray, min_df: int = 1) -> np.ndarray:
    """Predict each fold by a model of the other folds: (n,) labels."""
    predictions = np.empty(len(videos.ids), object)
    for fold in np.unique(folds):
        held_out = folds == fold
        model = LinearReference(min_df)
        labels = videos.labels[~held_out].astype(str)
        model.fit([values[~held_out] for values in videos.inputs], labels)
        predictions[held_out] = model.predict([values[held_out] for values in videos.inputs])
    return predictions


def predict_test(videos: Videos, test: Videos, min_df: int = 1) -> np.ndarray:
    """Predict the test split by a model of all labeled videos: (n,) labels."""
    model = LinearReference(min_df).fit(videos.inputs, videos.labels.astype(str))
    return model.predict(test.inputs)


def read_truth(path: Path, ids: list[str]) -> list[str]:
    """Read the labels of the test split: id,label in each line, with or without a header.

    Raises DataFault when a video has none.
    """
    labels = dict(row[:2] for row in csv.reader(read_text(path).splitlines()) if len(row) > 1)
    if missing := [name for name in ids if name not in labels]:
        raise DataFault(
            f"{path} lacks {len(missing)} of {len(ids)} test videos, first {missing[0]}"
        )
    return [labels[name] for name in ids]


@click.command()
@click.option("--min-df", type=click.IntRange(1), default=1, show_default=True)
@click.option("--frames", "with_frames", is_flag=True, help="Add an SVM on the frames.")
@click.option("--truth", type=click.Path(exists=True, path_type=Path), help="Labels of the test.")
@shared_options.prepared
@shared_options.work
@shared_options.as_json
def main(
    min_df: int,
    with_frames: bool,
    truth: Path | None,
    prepared: str | None,
    work: Path,
    as_json: bool,
) -> None:
    """Score the linear reference out of fold and, with --truth, on the test split."""
    dataset = open_prepared(work, prepared)
    contest = dataset.contest
    videos = read_videos(dataset, dataset.facts.labeled_split, with_frames)
    predictions = predict_out_of_fold(videos, dataset.read_folds(), min_df)
    pairs = {"out of fold": (videos.labels.tolist(), predictions.tolist())}

    if truth:
        test = read_videos(dataset, dataset.facts.test_split, with_frames)
        predicted = predict_test(videos, test, min_df)
        pairs["test"] = (read_truth(truth, test.ids), predicted.tolist())

    scores = {
        name: contest.score(true, predicted, dataset.facts.classes)
        | {"official": contest.score(true, predicted)["mean"]}
        for name, (true, predicted) in pairs.items()
    }
    if as_json:
        console.print_json(scores)
        return
    columns = list(next(iter(scores.values())))
    rows = [(name, *(values[column] for column in columns)) for name, values in scores.items()]
    name = "TF-IDF + HOG and colors" if with_frames else "TF-IDF"
    console.print_table(f"{name}, min_df {min_df}, linear SVM", ("", *columns), rows)


if __name__ == "__main__":
    main()
