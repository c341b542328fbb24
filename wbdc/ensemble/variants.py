"""Variants: a run as it was trained, or served with fewer frames, shorter texts, several clips and
crops, or one fold.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.integrity import verify_seal
from wbdc.serve.member_files import MODEL_FILE
from wbdc.serve.member_parts.view_limits import MAX_CLIPS, THREE_CROPS
from wbdc.train.runs import Run, open_run

FOLD_SETTING = "fold"
SIZE_SETTINGS = ("frames", "length")  # may be less when serving than in training
VIEW_SETTINGS = ("clips", "crops")  # views of a video that are averaged: 1 in training
SERVE_SETTINGS = (*SIZE_SETTINGS, *VIEW_SETTINGS)


class Variant(NamedTuple):
    """A run with some of its finished folds.

    serve: {"frames", "length"}, where they are less than in training; {"clips", "crops"}, where
    several views of a video are averaged.
    """

    run: Run
    folds: tuple[str, ...]
    serve: dict = {}

    @property
    def name(self) -> str:
        """The run's name and what differs from the run: "dual_stream-1a2b3c4d frames=4"."""
        settings = [f"{key}={value}" for key, value in self.serve.items()]
        if len(self.folds) < len(self.run.folds()):
            settings.append(f"{FOLD_SETTING}={','.join(self.folds)}")
        return " ".join([self.run.name, *settings])

    def models(self) -> dict[str, Path]:
        """Return the models of this variant: {name: folder}."""
        settings = [f"{key}={value}" for key, value in self.serve.items()]
        return {
            " ".join([f"{self.run.name}/{fold}", *settings]): self.run.fold(fold)
            for fold in self.folds
        }


def full_variant(run: Run) -> Variant:
    """Return a run as it was trained, with all its finished folds."""
    return Variant(run, tuple(run.folds()))


def parse_variant(work: Path, name: str) -> Variant:
    """Open a variant by its name: "RUN", "RUN frames=4 length=128", "RUN clips=2 crops=3" or
    "RUN fold=0".

    Raises UsageFault for a run, setting or value that does not exist.
    """
    run_name, *words = name.split() or [""]
    variant = full_variant(open_run(work, run_name))
    settings = dict(word.partition("=")[::2] for word in words)
    trained = _trained_settings(variant.run)
    known_keys = (*SERVE_SETTINGS, FOLD_SETTING)

    for key, value in settings.items():
        if key not in known_keys:
            raise UsageFault(f"{name!r}: a run has no {key!r}{suggest_name(key, known_keys)}")
        if key == FOLD_SETTING and value not in variant.folds:
            raise UsageFault(f"{name!r}: the finished folds are {', '.join(variant.folds)}")
        if key in VIEW_SETTINGS:
            _check_view(name, key, value, trained[key])
        if key in SIZE_SETTINGS and not trained[key]:
            raise UsageFault(
                f"{name!r}: {key} cannot be changed, because the model reads all of it"
            )
        if key in SIZE_SETTINGS and not (value.isdecimal() and 0 < int(value) < trained[key]):
            raise UsageFault(
                f"{name!r}: {key} must be a number below {trained[key]}, which the run was trained"
                " with"
            )

    return variant._replace(
        folds=(settings[FOLD_SETTING],) if FOLD_SETTING in settings else variant.folds,
        serve={key: int(settings[key]) for key in SERVE_SETTINGS if key in settings},
    )


def list_variants(
    run: Run,
    frames: Sequence[int],
    lengths: Sequence[int],
    clips: Sequence[int] = (),
    crops: Sequence[int] = (),
) -> list[Variant]:
    """List a run as it was trained, and with fewer frames, shorter texts or several views.

    frames, lengths, clips, crops: to try. Sizes that are not below those of training are ignored,
    and views of a run that cannot have any.
    """
    trained = _trained_settings(run)
    settings = [
        {
            key: value
            for key, value in zip(SERVE_SETTINGS, values, strict=True)
            if value is not None and _is_variant(key, value, trained[key])
        }
        for values in product([None, *frames], [None, *lengths], [None, *clips], [None, *crops])
    ]
    distinct = dict.fromkeys(tuple(serve.items()) for serve in settings)
    return [full_variant(run)._replace(serve=dict(serve)) for serve in distinct]


def _is_variant(key: str, value: int, trained: int) -> bool:
    """Return whether a value differs from that of training, and the model can have it."""
    return 1 < value <= trained if key in VIEW_SETTINGS else value < trained


def _check_view(name: str, key: str, value: str, largest: int) -> None:
    """Refuse a number of views that a run cannot have. Raises UsageFault."""
    if not largest:
        raise UsageFault(
            f"{name!r}: {key} cannot be set, because the model reads no frames that have any"
        )
    allowed = [THREE_CROPS] if key == "crops" else range(2, largest + 1)
    if not (value.isdecimal() and int(value) in allowed):
        choices = str(largest) if key == "crops" else f"from 2 to {largest}"
        raise UsageFault(f"{name!r}: {key} must be {choices}; leave it out for 1")


def _trained_settings(run: Run) -> dict[str, int]:
    """Return the frames and tokens of a run's training, and the largest numbers of views, 0 for
    what cannot be changed. Raises UsageFault without a fold.
    """
    from wbdc.serve.members import find_member_class, read_model  # imports torch

    if not run.folds():
        raise UsageFault(f"run {run.name} has no finished fold; train one with --fold 0")
    folder = run.fold(next(iter(run.folds())))
    verify_seal(folder, (MODEL_FILE,))
    model = read_model(folder)
    member_class = find_member_class(model, folder)
    largest = {"clips": MAX_CLIPS, "crops": THREE_CROPS}
    views = {key: largest[key] for key in member_class.view_settings(model)}
    sizes = member_class.trained_sizes(model) | views
    return {key: sizes.get(key, 0) for key in SERVE_SETTINGS}
