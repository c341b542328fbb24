"""A linear reference on the text: TF-IDF of character 1- to 3-grams and a linear SVM.

    wbdc prepare --data emojizh/data --work work
    python benchmarks/linear_reference.py --work work --truth emojizh/truth/test_truth.csv

Needs scikit-learn. Out of fold, each fold of the prepared data is predicted by an SVM that was
fitted to the other folds; the test split, by one that was fitted to all labeled videos. The text
fields are joined by spaces. The score is over all classes of the data; the official one over the
labels that occur.
"""

import csv
from pathlib import Path

import click
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

from wbdc.cli import console, shared_options
from wbdc.core.errors import DataFault
from wbdc.core.files import read_text
from wbdc.prepare.dataset import PreparedData, open_prepared


def linear_svm(min_df: int) -> Pipeline:
    """Return the reference, not fitted. min_df: texts that an n-gram must occur in."""
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=min_df)
    return make_pipeline(vectorizer, LinearSVC())


def read_texts(prepared: PreparedData, split: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the ids, the texts (n,) and the labels (n,) of a split; labels may be None."""
    table = prepared.read_split(split)
    rows = table.select(prepared.facts.text_fields).rows()
    texts = np.array([" ".join(row) for row in rows], object)
    return table["id"].to_list(), texts, np.array(table["label"].to_list(), object)


def predict_out_of_fold(
    texts: np.ndarray, labels: np.ndarray, folds: np.ndarray, min_df: int
) -> np.ndarray:
    """Predict each fold by a model of the other folds: (n,) labels."""
    predictions = np.empty(len(texts), object)
    for fold in np.unique(folds):
        held_out = folds == fold
        model = linear_svm(min_df).fit(texts[~held_out], labels[~held_out].astype(str))
        predictions[held_out] = model.predict(texts[held_out])
    return predictions


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
@click.option("--truth", type=click.Path(exists=True, path_type=Path), help="Labels of the test.")
@shared_options.prepared
@shared_options.work
@shared_options.as_json
def main(min_df: int, truth: Path | None, prepared: str | None, work: Path, as_json: bool) -> None:
    """Score the linear reference out of fold and, with --truth, on the test split."""
    dataset = open_prepared(work, prepared)
    contest = dataset.contest
    _, texts, labels = read_texts(dataset, dataset.facts.labeled_split)
    predictions = predict_out_of_fold(texts, labels, dataset.read_folds(), min_df)
    pairs = {"out of fold": (labels.tolist(), predictions.tolist())}

    if truth:
        ids, test_texts, _ = read_texts(dataset, dataset.facts.test_split)
        model = linear_svm(min_df).fit(texts, labels.astype(str))
        pairs["test"] = (read_truth(truth, ids), model.predict(test_texts).tolist())

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
    console.print_table(f"TF-IDF, min_df {min_df}, linear SVM", ("", *columns), rows)


if __name__ == "__main__":
    main()
