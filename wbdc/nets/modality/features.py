"""Features: the contest's files hold vectors that another model extracted, for example one of
VGGish for each second of sound.
"""

from wbdc.core.tokens import Tokens
from wbdc.nets.modality import Modality


class Features(Modality):
    """This tower has no weights; the model projects the vectors and adds embeddings of their
    positions.

    width: numbers of a vector; those of VGGish have 128. steps: the most vectors of each video;
    more are sampled by position.
    """

    def __init__(self, *, width: int = 128, steps: int = 32):
        super().__init__(width=width, steps=steps)
        self.dim = width

    def forward(self, rows: Tokens) -> Tokens:
        """Return the stored vectors (B, N, width)."""
        return rows

    def blueprint(self) -> dict:
        return {"use": "features", "width": self.width, "steps": self.steps}
