"""Modality towers: vectors of what a video holds beside text and frames, for example audio."""

from torch import nn

from wbdc.core.errors import UsageFault
from wbdc.core.mel_settings import MelSettings
from wbdc.core.modality_limit import MAX_STEPS
from wbdc.core.plug import check_between
from wbdc.core.tokens import Tokens
from wbdc.core.word2vec_settings import Word2VecSettings


class Modality(nn.Module):
    """The contract of the tower of a further modality. Subclass it in a file of its own.

    width: of the rows that it reads, those of the contest's files. steps: the most rows of each
    video; more are sampled by position. dim: width of the vectors that it returns. Raises
    UsageFault for a width or steps out of bounds.
    """

    dim: int
    # what the contest's files hold: "features", "sound", of which the tower reads log-Mel
    # spectrograms, or "tokens", of which it reads hashes
    reads: str = "features"
    mel: MelSettings | None = None  # of a tower that reads sound
    # whether vectors of tokens are learned from the data before the training; such a tower has
    # `learning` and `set_vectors`, see `word2vec`
    learns_vectors: bool = False
    learning: Word2VecSettings
    converts_to_openvino: bool = True  # whether OpenVINO computes the tower as torch does

    def __init__(self, *, width: int, steps: int):
        super().__init__()
        check_between("modality", 1, 2**20, width=width)
        check_between("modality", 1, MAX_STEPS, steps=steps)
        self.width = width
        self.steps = steps
        self.loaded = "random weights"
        self.pretrained: dict | None = None  # name and hashes of the loaded file

    def forward(self, rows: Tokens) -> Tokens:
        """Encode the rows of each video: (B, N, width) float32 -> (B, M, dim), M <= steps.

        What padding holds, for which the mask is False, must not change a real vector, and a
        video's vectors must not depend on other videos. N may be 0.
        """
        raise NotImplementedError

    def blueprint(self) -> dict:
        """Return the kit table that rebuilds this tower."""
        raise NotImplementedError

    def check_width(self, name: str, width: int) -> None:
        """Raise UsageFault for rows of another width than that of the tower. name: of the
        modality.
        """
        if width != self.width:
            raise UsageFault(
                f"the {name} features of a video are {width} numbers, and the kit expects "
                f"{self.width}; set modality.{name}.width = {width}"
            )


Plug = Modality
