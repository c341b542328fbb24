"""Hide the text, the frames or a further modality of some videos, so that the model relies on none
alone (ModDrop; Neverova et al., 2016).
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.tokens import Tokens
from wbdc.train.task import Task
from wbdc.train.tricks import Trick


class DropModality(Trick):
    """Masks a whole modality. No video loses all, or the only one that it has.

    text: probability that a video loses its text. frames: probability that it loses its frames;
    both add up to 1 at most. modalities: probability that it loses a further modality, by name, for
    example { audio = 0.1 }.

    Raises UsageFault for another probability, and for a modality that the kit does not read.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        text: float = 0.1,
        frames: float = 0.1,
        modalities: dict[str, float] | None = None,
    ):
        super().__init__(model, task)
        self.check_between(0, 1, text=text)
        self.check_between(0, 1 - text, frames=frames)
        self.text = text
        self.frames = frames
        self.modalities = modalities or {}
        for name in self.modalities:
            if name not in model.modalities:
                raise UsageFault(
                    f"trick 'drop_modality': the kit has no modality {name!r}"
                    f"{suggest_name(name, list(model.modalities))}"
                )
        self.check_between(0, 1, **self.modalities)

    def change_batch(self, batch: Batch) -> Batch:
        """Return the batch with modalities removed."""
        draw = self.draw(batch, "modality")
        batch = drop_modalities(batch, draw, self.text, self.frames)
        if not self.modalities:
            return batch
        loses = {
            name: self.draw(batch, f"modality.{name}") < probability
            for name, probability in self.modalities.items()
        }
        return drop_further_modalities(batch, loses)


def drop_modalities(batch: Batch, draw: Tensor, text: float, frames: float) -> Batch:
    """Mask the text of videos with draw < text, and the frames of those with draw > 1 - frames.

    draw: (B,) float from 0 to 1. The first token of a text stays, so that no row is empty. A video
    without frames keeps its text, and one without words keeps its frames.
    """
    has_frames = batch.frame_mask.any(1)
    has_words = (batch.text_field > 0).any(1)
    loses_text = (draw < text) & has_frames
    loses_frames = (draw > 1 - frames) & has_words & ~loses_text
    return batch.mask_modalities(loses_text, loses_frames)


def drop_further_modalities(batch: Batch, loses: Mapping[str, Tensor]) -> Batch:
    """Mask further modalities of some videos. A video without words and frames keeps them.

    loses: which videos lose each modality, (B,) bool, by name.
    """
    has_more = (batch.text_field > 0).any(1) | batch.frame_mask.any(1)
    masked = {
        name: Tokens(tokens.x, tokens.mask & ~(loses[name] & has_more)[:, None])
        for name, tokens in batch.modalities.items()
        if name in loses
    }
    return replace(batch, modalities=batch.modalities | masked)
