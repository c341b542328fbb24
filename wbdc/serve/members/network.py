"""A network: the model of a kit, as `wbdc train` saved it."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.errors import IntegrityFault
from wbdc.core.tokens import Tokens
from wbdc.data.loader import NO_MODALITIES, collate
from wbdc.data.text import TextReader, open_tokenizer
from wbdc.nets.half_weights import halve_weights, restore_weights
from wbdc.nets.image_clips import saved_image_table
from wbdc.nets.model import VideoClassifier, build_model
from wbdc.serve.cache_key import cache_key
from wbdc.serve.cuda_graphs import FixedFrames, FixedTokens, GraphedFunction, TensorFunction
from wbdc.serve.member_files import WEIGHTS_FILE
from wbdc.serve.member_parts.tower_weights import explain_damage, read_weights, tower_key
from wbdc.serve.member_parts.views import Views, average_views, check_views
from wbdc.serve.members import FrameKey, Member, ModalityKey
from wbdc.serve.openvino_function import OpenVinoFunction
from wbdc.serve.openvino_network import check_convertible, convert_scores, use_openvino_tower

TOKENIZER_FILE = "tokenizer.json"
MAX_NAMES = 10  # in an error


class Network(Member):
    """frames, length: serve fewer frames or tokens than in training; clips, crops: average this
    many clips of a video and squares of its frames, see `Views`; half: round the weights to
    float16, as they may be stored.

    model: the network; text: turns fields into token ids; without: the modality that the model was
    trained without, if any.
    """

    shape = {
        "blueprint": {
            "trunk": dict,
            "vision": dict,
            "modality?": {str: dict},
            "fusion": dict,
            "pooling": dict,
            "head?": dict,
            "classes": int,
            "parents?": [int],
            "special": {str: int},
        },
        "text": {"fields": ([list], {str: int}), "length": int},
        "without": (str, None),
        "tower?": str,
    }
    files = (*Member.files, TOKENIZER_FILE)
    is_network = True
    computes_on_cpu = False
    stage = "fuse"

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        *,
        frames: int | None = None,
        length: int | None = None,
        clips: int | None = None,
        crops: int | None = None,
        half: bool = False,
    ):
        super().__init__(folder, device)
        self.folder, self.device = folder, device
        self.is_rounded = half
        self._halved: list[str] = []  # names of the weights that are in half precision now
        facts = self.facts
        model = build_model(facts["blueprint"], kit_folder=folder)
        _load_weights(model, folder, facts, half)
        if frames is not None:
            model.vision.serve_frames(frames)
        self.model = model.eval().to(device)
        self._compiled_score: TensorFunction | None = None
        self._openvino_functions: list[OpenVinoFunction] = []
        self._launch_directly()
        self.text = TextReader(open_tokenizer(folder), **_shorten_text(facts["text"], length))
        self.without: str | None = facts["without"]
        self.text_key = cache_key(
            self.text.tokenizer.to_str(),
            list(self.text.fields.items()),
            self.text.length,
            sorted(self.text.tail),
        )
        self.views = Views(clips or 1, crops or 1)
        check_views(self.views, model.vision.image_settings, f"the model of {folder}")
        frame_count = model.vision.frames * self.views.clips
        self.frame_key = FrameKey(model.vision.image_settings, frame_count, self.views.crops)
        towers = {name: tokens.tower for name, tokens in model.modalities.items()}
        self.modality_keys = tuple(
            ModalityKey(name, tower.width, tower.steps, tower.mel, tower.reads)
            for name, tower in towers.items()
        )

    @cached_property
    def tower_key(self) -> tuple:
        """A hash of the tower, its weights and its inputs, and the modality that is dropped."""
        return tower_key(self.model.vision, self.frame_key, self.views), self.without

    @classmethod
    def trained_sizes(cls, facts: dict) -> dict[str, int]:
        return {
            "frames": facts["blueprint"]["vision"].get("frames") or 0,
            "length": facts["text"]["length"],
        }

    @classmethod
    def view_settings(cls, facts: dict) -> tuple[str, ...]:
        vision = facts["blueprint"]["vision"]
        if not vision.get("frames"):
            return ()
        image = saved_image_table(vision)
        return ("clips", "crops") if image and not image.get("squash") else ("clips",)

    def encode_text(self, fields: Sequence[dict[str, str]]) -> list[list[int]]:
        return self.text(fields)

    def collate(
        self,
        ids: Sequence[str],
        texts: list[list[int]],
        frames: Sequence[np.ndarray],
        modalities: Mapping[str, Sequence[np.ndarray]] = NO_MODALITIES,
    ) -> Batch:
        is_pinned = self.device.type == "cuda"
        return collate(ids, texts, frames, modalities=modalities, pinned=is_pinned)

    def drop_modality(self, batch: Batch) -> Batch:
        return batch.drop_modality(self.without) if self.without else batch

    def encode(self, batch: Batch) -> Tensor:
        if self.views.count == 1:
            return self.model.encode(batch).frames
        # the vectors of all views of a video in one row, so that rows are videos
        encoded = self.model.encode(self.views.split_batch(batch)).frames
        return encoded.unflatten(0, (len(batch), self.views.count)).flatten(1, 2)

    def with_features(self, batch: Batch, features: Tensor) -> Batch:
        if self.views.count > 1:  # the mask of the frames tells which belong to a view
            return replace(batch, frames=features)
        # a cached batch must not hold its pixels
        return replace(self.model.with_features(batch, features), pixels=None)

    def logits(self, batch: Batch, features: Tensor | None) -> Tensor:
        if features is None:
            features = self.encode(batch)
        features = features.to(batch.text.device)
        if self.views.count > 1:
            return self._average_views(batch, features)
        encoded = self.model.with_features(batch, features)
        return self._score(
            encoded.text,
            encoded.text_mask,
            encoded.frames,
            encoded.frame_mask,
            *self._modality_tensors(batch),
        )

    def _modality_tensors(self, batch: Batch) -> list[Tensor]:
        """Return the rows of each further modality in FP32, each followed by its mask."""
        sequences = [batch.modalities[key.name] for key in self.modality_keys]
        return [tensor for rows in sequences for tensor in (rows.x.float(), rows.mask)]

    def _average_views(self, batch: Batch, features: Tensor) -> Tensor:
        """Score each view of the videos, and average their probabilities."""
        count = self.views.count
        mask = self.views.split(batch.frame_mask)
        scores = self._score(
            batch.text.repeat_interleave(count, 0),
            batch.text_mask.repeat_interleave(count, 0),
            features.unflatten(1, (count, features.shape[1] // count)).flatten(0, 1),
            self.model.vision.token_mask(mask),
            *(tensor.repeat_interleave(count, 0) for tensor in self._modality_tensors(batch)),
        )
        return average_views(scores, mask.any(1), count)

    def use_precision(self, precision: torch.dtype) -> None:
        if self._openvino_functions:
            for function in self._openvino_functions:
                function.use_precision(precision)
        elif precision != torch.float32:
            self._halved = halve_weights(self.model, precision)
        elif self._halved:
            with explain_damage(self.folder):
                weights = read_weights(self.folder, self.facts, self.is_rounded)
                restore_weights(self.model, {name: weights[name] for name in self._halved})
            self._halved = []
            self._launch_directly()  # graphs read the weights that were replaced

    def use_openvino(self, threads: int, towers: dict[Hashable, OpenVinoFunction]) -> None:
        tower_name = f"the vision tower of {self.folder}"
        functions = use_openvino_tower(
            self.model.vision, self.tower_key, threads, towers, tower_name
        )
        name = f"the network of {self.folder}"
        for tokens in self.model.modalities.values():
            check_convertible(tokens.tower, name)
        self._score = convert_scores(self._score_tokens, self.model, threads, name)
        self._openvino_functions = [*functions, self._score]

    def compile(self) -> None:
        for tower in self.model.vision.parts().values():
            tower.encode = torch.compile(tower.encode, dynamic=True)
        self._compiled_score = torch.compile(self._score_tokens, dynamic=True)
        self._launch_directly()

    def use_cuda_graphs(self) -> None:
        vision = self.model.vision
        for tower in vision.parts().values():
            if not tower.has_fixed_shapes:
                continue
            encode = GraphedFunction(tower.encode_pixels, self.device)
            tower.encode_pixels = FixedFrames(encode, tower.clip_frames or 1)
        score = GraphedFunction(self._score, self.device)
        max_features = vision.steps * vision.tokens_per_frame
        steps = [key.steps for key in self.modality_keys]
        self._score = FixedTokens(score, self.text.length, max_features, steps)

    def _launch_directly(self) -> None:
        """Launch each operation, without graphs."""
        self._score = self._compiled_score or self._score_tokens
        for tower in self.model.vision.parts().values():
            vars(tower).pop("encode_pixels", None)

    def _score_tokens(
        self,
        text: Tensor,
        text_mask: Tensor,
        features: Tensor,
        frame_mask: Tensor,
        *modalities: Tensor,
    ) -> Tensor:
        """Return the logits of an encoded batch from the tensors of `Batch`.

        modalities: of `_modality_tensors`.
        """
        sequences = map(Tokens, modalities[::2], modalities[1::2])
        rows = dict(zip(self.model.modalities, sequences, strict=True))
        ids = ("",) * len(text)
        batch = Batch(ids, text, text_mask, features, frame_mask, modalities=rows)
        return self.model.head(self.model.fuse(batch).pooled)


def _load_weights(model: VideoClassifier, folder: Path, facts: dict, half: bool) -> None:
    """Load the weights of a folder into its model. Raises IntegrityFault."""
    with explain_damage(folder):
        weights = read_weights(folder, facts, half)
        _check_dtypes(model, weights)
        model.load_state_dict(weights, strict=True)

    broken = [
        name
        for name, tensor in weights.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        raise IntegrityFault(
            f"{folder / WEIGHTS_FILE} holds numbers that are not finite, in"
            f" {', '.join(broken[:MAX_NAMES])}"
        )


def _check_dtypes(model: VideoClassifier, weights: dict[str, Tensor]) -> None:
    """Refuse weights of another dtype, which torch would convert without a warning."""
    mismatches = [
        name
        for name, tensor in model.state_dict().items()
        if name in weights and weights[name].dtype != tensor.dtype
    ]
    if mismatches:
        raise RuntimeError(f"another dtype in {', '.join(mismatches[:MAX_NAMES])}")


def _shorten_text(text: dict, length: int | None) -> dict:
    """Return the settings of a text reader for sequences of `length` tokens.

    The fields' budgets shrink in proportion.
    """
    fields = dict(text["fields"])  # stored as pairs: their order is the reading order
    length = length or text["length"]
    room, budgets = length - 1 - len(fields), sum(fields.values())
    if room < budgets:
        fields = {name: budget * max(0, room) // budgets for name, budget in fields.items()}
    return {**text, "fields": fields, "length": length}
