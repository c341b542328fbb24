"""Hide the text or the frames of some videos, so that the model relies on neither alone (ModDrop;
Neverova et al., 2016).
"""

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.train.task import Task
from wbdc.train.tricks import Trick


class DropModality(Trick):
    """Masks a whole modality. No video loses both, or the only one that it has.

    text: probability that a video loses its text. frames: probability that it loses its frames;
    both add up to 1 at most.
    """

    def __init__(self, model: nn.Module, task: Task, *, text: float = 0.1, frames: float = 0.1):
        super().__init__(model, task)
        self.check_between(0, 1, text=text)
        self.check_between(0, 1 - text, frames=frames)
        self.text = text
        self.frames = frames

    def change_batch(self, batch: Batch) -> Batch:
        """Return the batch with modalities removed."""
        draw = self.draw(batch, "modality")
        return drop_modalities(batch, draw, self.text, self.frames)


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
