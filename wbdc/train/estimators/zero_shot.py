"""Zero-shot classification by prompts: the class whose description is nearest to the frames in the
space of a CLIP (Radford et al., 2021; Chinese-CLIP: Yang et al., 2022). Nothing is trained.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.core.frame_limit import MAX_FRAMES
from wbdc.core.plug import check_choice
from wbdc.nets.vision.clip import Clip
from wbdc.serve.member_parts.class_vectors import CLASS_VECTORS, COSINE_SCALE
from wbdc.serve.member_parts.tower_weights import TOWER_PREFIX
from wbdc.train.estimator_parts.prompt_vectors import prompt_vectors
from wbdc.train.estimators import Estimator, FittedMember, LabeledVideos

PROMPT_TEMPLATES = {
    "zh": [
        "{}",
        "一张{}的照片。",
        "{}的视频截图。",
        "一段关于{}的短视频。",
        "一张与{}有关的图片。",
    ],
    "en": [
        "{}",
        "a photo of {}.",
        "a video frame of {}.",
        "a short video about {}.",
        "a picture that is related to {}.",
    ],
}


class ZeroShot(Estimator):
    """model, weights: a CLIP with both towers, as vision 'clip' takes them: "ViT-B-32" and
    "openai"; or a CLIP or Chinese-CLIP on Hugging Face and "transformers". frames: number of each
    video, whose vectors are averaged.

    language: "zh" or "en", of the usual templates. templates: other ones, each with "{}" in the
    place of the class; a class is the mean of their vectors. names: description of each class, by
    its id; a class without one is described by its id. resize: as of vision 'clip'.

    Raises UsageFault for a template without "{}" and for names of classes that the data lack,
    EnvironmentFault when the weights are not on this machine.
    """

    def __init__(
        self,
        text_fields: Sequence[str],
        *,
        model: str,
        weights: str,
        frames: int = 8,
        language: str = "zh",
        templates: list | None = None,
        names: dict | None = None,
        resize: str | None = None,
    ):
        super().__init__(text_fields)
        self.check_between(1, MAX_FRAMES, frames=frames)
        check_choice("estimator 'zero_shot'", list(PROMPT_TEMPLATES), language=language)
        self.templates: list[str] = templates or PROMPT_TEMPLATES[language]
        if wrong := [t for t in self.templates if not isinstance(t, str) or t.count("{}") != 1]:
            raise UsageFault(
                f"estimator 'zero_shot': the template {wrong[0]!r} needs one {{}} in the place of "
                "the class"
            )
        self.model = model
        self.weights = weights
        self.frames = frames
        self.names = names or {}
        self.resize = resize

    def fit(self, videos: LabeledVideos, seed: int) -> FittedMember:
        if unknown := sorted(set(self.names) - set(videos.classes)):
            raise UsageFault(
                f"estimator 'zero_shot': names describes {unknown[0]!r}, and the data have no such "
                f"class; {len(videos.classes)} classes, for example {videos.classes[0]!r}"
            )
        vision = Clip(
            model=self.model,
            weights=self.weights,
            frames=self.frames,
            frozen=True,
            resize=self.resize,
        )
        descriptions = [self.names.get(name, name) for name in videos.classes]
        vectors, scale = self.class_vectors(descriptions)
        tower = {TOWER_PREFIX + name: t.numpy() for name, t in vision.state_dict().items()}
        return FittedMember(
            "zero_shot",
            {"vision": vision.blueprint(), "scale": scale},
            {**tower, CLASS_VECTORS: vectors.numpy()},
            {"templates": len(self.templates), COSINE_SCALE: round(scale, 4)},
            {"vision": vision.pretrained},
        )

    def class_vectors(self, descriptions: Sequence[str]) -> tuple[Tensor, float]:
        """Return the unit vector of each class, (C, D): the mean of those of its prompts; and the
        scale of cosines.
        """
        prompts = [t.replace("{}", name) for name in descriptions for t in self.templates]
        vectors, scale = prompt_vectors(self.model, self.weights, prompts)
        by_class = vectors.unflatten(0, (len(descriptions), len(self.templates)))
        return F.normalize(by_class.mean(1), dim=-1), scale
