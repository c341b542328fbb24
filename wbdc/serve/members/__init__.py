"""Members: the models of a blend. Each kind is one file, which rebuilds a model from its folder."""

import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.device import CPU
from wbdc.core.files import read_json
from wbdc.core.image_settings import ImageSettings
from wbdc.core.integrity import verify_seal_if_present
from wbdc.core.mel_settings import MelSettings
from wbdc.data.loader import NO_MODALITIES
from wbdc.serve.member_files import (
    MEMBER_FACTS_SHAPE,
    MODEL_FILE,
    WEIGHTS_FILE,
    member_kind,
    read_member_facts,
)
from wbdc.serve.openvino_function import OpenVinoFunction


class FrameKey(NamedTuple):
    """What a member reads of the frames of a video.

    image_settings: None for precomputed features. frames: the largest number. crops: squares of
    each frame, along its longer side.
    """

    image_settings: ImageSettings | None
    frames: int
    crops: int = 1


class ModalityKey(NamedTuple):
    """What a member reads of a further modality.

    name: for example "audio". width: numbers of a row; files with another width are counted as
    damaged. steps: the most rows of a video. mel: the spectrogram of a tower that reads sound.
    reads: "features", "sound" or "tokens".
    """

    name: str
    width: int
    steps: int
    mel: MelSettings | None = None
    reads: str = "features"


@dataclass(frozen=True)
class ValueBatch:
    """A batch of B videos for a member that computes on the CPU.

    ids: B strings; values: what the member reads of each video, B of any type.
    """

    ids: tuple[str, ...]
    values: tuple

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: slice) -> "ValueBatch":
        """Return some of the videos."""
        return ValueBatch(self.ids[rows], self.values[rows])

    def to(self, device: torch.device) -> "ValueBatch":
        """Return the batch itself, whose values stay on the CPU."""
        return self


MemberBatch = Batch | ValueBatch


class Member:
    """A trained model that serves. Subclass it in a file of its own.

    Letters: B videos, C classes, F frames, P vectors per frame, D width.

    The reader calls `encode_text` and decodes frames once for all members with equal keys, and then
    `collate`. The engine calls `encode` once for all members with equal `tower_key`, and `logits`.
    These run while other batches are read, so a member keeps no state between calls.

    Class attributes. shape: what model.json holds beside MEMBER_FACTS_SHAPE, as `read_json` checks
    it; files: what a package copies. is_network: whether it has floating-point weights that a
    package may store as float16, and a precision to serve in. computes_on_cpu: whether `logits`
    computes on the CPU on any machine. stage: of the time check, to which the seconds of `logits`
    belong.

    name: of the folder; facts: the content of model.json; classes: class id of each logit; batch:
    videos computed together. text_key: of the result of `encode_text`; frame_key: None when it
    reads no frames; modality_keys: of each further modality that it reads; tower_key: of the result
    of `encode`, None when it has no vision tower.
    """

    shape: Mapping = {}
    files: tuple[str, ...] = (WEIGHTS_FILE, MODEL_FILE)
    is_network: bool = False
    computes_on_cpu: bool = True
    stage: str = "linear"
    text_key: Hashable = None
    frame_key: FrameKey | None = None
    modality_keys: tuple[ModalityKey, ...] = ()
    tower_key: Hashable | None = None

    def __init__(self, folder: Path, device: torch.device):
        self.facts = read_model(folder)
        self.name = folder.name
        self.classes: list[str] = self.facts["classes"]
        self.batch: int = self.facts["serve"]["batch"]

    @classmethod
    def trained_sizes(cls, facts: dict) -> dict[str, int]:
        """Return the frames and the text length of training that may be less when serving.

        facts: of `read_model`. A size that is absent cannot be changed.
        """
        return {}

    @classmethod
    def view_settings(cls, facts: dict) -> tuple[str, ...]:
        """Return which of "clips" and "crops" may be set when serving. facts: of `read_model`."""
        return ()

    def encode_text(self, fields: Sequence[dict[str, str]]) -> list:
        """Return what the member reads of the texts of some videos, one value for each.

        fields: {field: text} of each video.
        """
        return [None] * len(fields)

    def collate(
        self,
        ids: Sequence[str],
        texts: list,
        frames: Sequence[np.ndarray],
        modalities: Mapping[str, Sequence[np.ndarray]] = NO_MODALITIES,
    ) -> MemberBatch:
        """Return a batch of B videos.

        texts: of `encode_text`. frames: (n, 3, S, S) uint8 or (n, D) float16 of each video.
        modalities: only for a member with `modality_keys`; by their names, (n, D) float16 of each
        video.
        """
        raise NotImplementedError

    def drop_modality(self, batch: MemberBatch) -> MemberBatch:
        """Return the batch without the modality that the model was trained without."""
        return batch

    def encode(self, batch: MemberBatch) -> Tensor:
        """Return the vision features of a batch, (B, F * P, D); only with a `tower_key`."""
        raise NotImplementedError

    def with_features(self, batch: MemberBatch, features: Tensor) -> MemberBatch:
        """Return the batch with features in place of frames; only with a `tower_key`."""
        raise NotImplementedError

    def logits(self, batch: MemberBatch, features: Tensor | None) -> Tensor:
        """Return (B, C) floats whose softmax is the probabilities.

        features: of `encode`; None to encode again.
        """
        raise NotImplementedError

    def use_precision(self, precision: torch.dtype) -> None:
        """Hold the weights for a precision of autocast, FP32 for none. Logits stay the same.

        The engine calls it before `compile` and `logits`, and with FP32 before `logits` of a batch
        that overflowed; where OpenVINO computes, also with the former precision after that.
        Raises IntegrityFault when weights are read again and are damaged.
        """

    def use_openvino(self, threads: int, towers: dict[Hashable, OpenVinoFunction]) -> None:
        """Compute the networks of the member, if any, by OpenVINO from now on, on the CPU.

        threads: that it may use; towers: vision towers by their keys, for members that share one.
        The engine calls it before `use_precision`. Raises UsageFault for a network that cannot be
        converted, EnvironmentFault without OpenVINO.
        """

    def compile(self) -> None:
        """Run the networks of the member, if any, through torch.compile from now on."""

    def use_cuda_graphs(self) -> None:
        """Record what the networks of the member launch on a GPU, if any, and replay it."""


Plug = Member


def load_member(
    folder: Path,
    device: torch.device = CPU,
    *,
    frames: int | None = None,
    length: int | None = None,
    clips: int | None = None,
    crops: int | None = None,
    half: bool = False,
) -> Member:
    """Rebuild the model of `folder`.

    frames, length: serve fewer frames or tokens than in training; clips, crops: average this many
    clips of a video and squares of its frames; half: round the weights of a
    network to float16, as they may be stored.
    Raises IntegrityFault when a file is missing or damaged, or the weights belong to another model
    or hold NaN; UsageFault when its kind of member has no such sizes to change.
    """
    verify_seal_if_present(folder)
    member_class = find_member_class(read_member_facts(folder), folder)
    sizes = {"frames": frames, "length": length, "clips": clips, "crops": crops}
    settings = {name: value for name, value in sizes.items() if value is not None}
    if member_class.is_network:
        settings["half"] = half
    plug.check_settings(f"the model of {folder}", member_class, settings)
    return member_class(folder, device, **settings)


def read_model(folder: Path) -> dict:
    """Read model.json, which rebuilds a member. Raises IntegrityFault."""
    member_class = find_member_class(read_member_facts(folder), folder)
    return read_json(folder / MODEL_FILE, MEMBER_FACTS_SHAPE | dict(member_class.shape))


def find_member_class(facts: dict, folder: Path) -> type[Member]:
    """Return the class of a member by the facts in its model.json.

    Raises IntegrityFault for a kind that this version does not have.
    """
    return plug.find_plug(sys.modules[__name__], member_kind(facts, folder))
