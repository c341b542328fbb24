"""The model: a language trunk, a vision tower, a fusion and a classification head.

It is rebuilt from the blueprint that is saved beside its weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType

import torch
from torch import Tensor, nn

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.frame_limit import MAX_FRAMES
from wbdc.core.tokens import Fused, Tokens
from wbdc.nets import fusion as fusions
from wbdc.nets import heads
from wbdc.nets import modality as modality_plugs
from wbdc.nets import pooling as poolings
from wbdc.nets import vision as visions
from wbdc.nets.default_head import DEFAULT_HEAD
from wbdc.nets.fusion import Fusion
from wbdc.nets.heads import Head
from wbdc.nets.modality import Modality
from wbdc.nets.modality_tokens import ModalityTokens
from wbdc.nets.trunk import Trunk
from wbdc.nets.vision import Vision

NO_TOWERS: Mapping[str, Modality] = MappingProxyType({})


class VideoClassifier(nn.Module):
    """Classifies a video from its text and its frames.

    build_head: returns the head for a width of the pooled vector. special: id of each special token
    of the tokenizer, for example of "[MASK]". towers: of further modalities, by name.
    """

    def __init__(
        self,
        fusion: Fusion,
        vision: Vision,
        build_head: Callable[[int], Head],
        special: dict[str, int],
        towers: Mapping[str, Modality] = NO_TOWERS,
    ):
        super().__init__()
        dim = fusion.trunk.dim
        self.fusion = fusion
        self.vision = vision
        self.special = special
        self.project = nn.Sequential(nn.Linear(vision.dim, dim), nn.LayerNorm(dim))
        self.time_embedding = nn.Embedding(MAX_FRAMES, dim)
        # a learned token at the start of each sequence of frames, so that none is empty
        self.frame_start = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.head = build_head(dim)
        nn.init.normal_(self.time_embedding.weight, std=0.02)
        # in the order of their names, in which the fusion receives them
        self.modalities = nn.ModuleDict(
            {name: ModalityTokens(name, towers[name], dim) for name in sorted(towers)}
        )

    @property
    def trunk(self) -> Trunk:
        """The language trunk, which the fusion owns."""
        return self.fusion.trunk

    def forward(self, batch: Batch) -> Fused:
        """Encode the frames and fuse them with the text."""
        return self.fuse(self.encode(batch))

    def encode(self, batch: Batch) -> Batch:
        """Replace the pixels by the output of the vision tower, P vectors for each frame: frames
        (B, F * P, vision.dim), frame_mask (B, F * P). A video tower returns P vectors for each step
        of a clip, which is sampled at random in training, a function of each video's seed.

        A batch of features keeps them; those that its mask hides become zeros.
        """
        inputs = (batch.frames, batch.frame_mask, batch.frame_counts)
        length = self.vision.clip_frames
        if length is not None and self.vision.training and not batch.frames.is_floating_point():
            inputs = (*inputs, batch.draw("clip", length))
        return self.with_features(batch, self.vision(*inputs).x)

    def with_features(self, batch: Batch, features: Tensor) -> Batch:
        """Replace the frames of a batch by vision features that are known: (B, F * P, vision.dim).

        The mask follows when the batch holds pixels.
        """
        if batch.frames.is_floating_point():
            return replace(batch, frames=features)
        return replace(
            batch,
            frames=features,
            pixels=batch.frames,
            frame_mask=self.vision.token_mask(batch.frame_mask),
            frame_counts=self.vision.token_counts(batch.frame_counts),
        )

    def fuse(self, batch: Batch) -> Fused:
        """Fuse the text with the features of an encoded batch."""
        sequences = (self.text_tokens(batch), self.frame_tokens(batch))
        fused = self.fusion(*sequences, *self.modality_tokens(batch))
        return fused._replace(vision_features=batch.frames)

    def unimodal(self, batch: Batch, fused: Fused) -> tuple[Tokens, Tokens]:
        """Return text and frames before they attended to each other, each (B, N, D).

        fused: the output of this encoded batch. A fusion that has no such tokens gets them from the
        trunk, which encodes text and frames apart.
        """
        if fused.unimodal is not None:
            return fused.unimodal
        return self.trunk(self.text_tokens(batch)), self.trunk(self.frame_tokens(batch))

    def unimodal_text(self, batch: Batch, fused: Fused) -> Tokens:
        """Return the text before it attended to frames, (B, T, D); see `unimodal`."""
        return fused.unimodal[0] if fused.unimodal else self.trunk(self.text_tokens(batch))

    def text_tokens(self, batch: Batch) -> Tokens:
        """Embed the text: (B, T, D)."""
        return Tokens(self.trunk.embed(batch.text), batch.text_mask)

    def frame_tokens(self, batch: Batch) -> Tokens:
        """Project the features of an encoded batch to tokens and put the start token before them:
        (B, 1 + F * P, D). The P tokens of a frame share the embedding of its time.
        """
        vision_features, mask = batch.frames, batch.frame_mask
        per_frame = self.vision.tokens_per_frame
        times = self.time_embedding.weight[: vision_features.shape[1] // per_frame]
        frames = self.project(vision_features) + times.repeat_interleave(per_frame, 0)
        start = self.frame_start.expand(vision_features.shape[0], 1, -1).to(frames.dtype)
        start_mask = mask.new_ones(mask.shape[0], 1)
        return Tokens(torch.cat([start, frames], 1), torch.cat([start_mask, mask], 1))

    def modality_tokens(self, batch: Batch) -> list[Tokens]:
        """Encode further modalities, in the order of their names: (B, 1 + M, D) each."""
        return [encode(batch.modalities[name]) for name, encode in self.modalities.items()]

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits of every class: (B, C)."""
        return self.head(self(batch).pooled)

    def blueprint(self, fusion: dict, pooling: dict, head: dict = DEFAULT_HEAD) -> dict:
        """Return what `build_model` needs to rebuild this model.

        fusion, pooling, head: the kit's tables.
        """
        towers = {name: tokens.tower.blueprint() for name, tokens in self.modalities.items()}
        return {
            **({"modality": towers} if towers else {}),
            "trunk": self.trunk.architecture,
            "vision": self.vision.blueprint(),
            "fusion": fusion,
            "pooling": pooling,
            "head": head,
            "classes": self.head.out_features,
            "parents": list(self.head.parents),
            "special": self.special,
        }


def build_fusion(tables: dict, trunk: Trunk, kit_folder: Path | None = None) -> Fusion:
    """Build the fusion and the pooling of a kit's tables, or of a blueprint.

    Raises UsageFault, also when they do not take the further modalities of the tables.
    """
    pooling = plug.build_plug(poolings, tables["pooling"], trunk.dim, kit_folder=kit_folder)
    fusion = plug.build_plug(fusions, tables["fusion"], trunk, pooling, kit_folder=kit_folder)
    for package, instance in ((fusions, fusion), (poolings, pooling)):
        if tables.get("modality") and not instance.takes_modalities:
            raise _cannot_take(package, instance, tables["modality"])
    return fusion


def _cannot_take(package: ModuleType, instance: nn.Module, modalities: Mapping) -> UsageFault:
    """Return the error about a plug that takes text and frames only."""
    names = plug.plug_names(package)
    able = [name for name in names if plug.find_plug(package, name).takes_modalities]
    return UsageFault(
        f"{plug.plug_kind(package)} {plug.plug_name(instance)!r} takes text and frames only, and "
        f"the kit has {', '.join(sorted(modalities))}; use one of {', '.join(able)}"
    )


def build_towers(tables: dict, kit_folder: Path | None = None) -> dict[str, Modality]:
    """Build the towers of the further modalities of a kit's tables, or of a blueprint, by name.
    Raises UsageFault.
    """
    towers = {}
    for name, table in sorted(tables.get("modality", {}).items()):
        if hasattr(nn.ModuleDict, name):
            raise UsageFault(f"a modality cannot have the name {name!r}; rename it in the contest")
        towers[name] = plug.build_plug(modality_plugs, table, kit_folder=kit_folder)
    return towers


def head_builder(
    tables: dict, classes: int, parents: Sequence[int], kit_folder: Path | None = None
) -> Callable[[int], Head]:
    """Return a function that builds the head of a kit's tables, or of a blueprint, for a width.

    Without a table, the head is linear. classes, parents: see `Head`. It may raise UsageFault.
    """
    table = tables.get("head", DEFAULT_HEAD)
    return lambda dim: plug.build_plug(
        heads, table, dim, classes, tuple(parents), kit_folder=kit_folder
    )


def build_model(blueprint: dict, kit_folder: Path | None = None) -> VideoClassifier:
    """Build the model of a blueprint with random weights.

    kit_folder: where "./plug.py" files are. Raises UsageFault.
    """
    vision = plug.build_plug(visions, blueprint["vision"], kit_folder=kit_folder)
    trunk = Trunk(blueprint["trunk"])
    fusion = build_fusion(blueprint, trunk, kit_folder)
    parents = blueprint.get("parents", ())  # blueprints without a head have none
    build_head = head_builder(blueprint, blueprint["classes"], parents, kit_folder)
    towers = build_towers(blueprint, kit_folder)
    return VideoClassifier(fusion, vision, build_head, blueprint["special"], towers)
