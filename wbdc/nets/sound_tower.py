"""Sound towers: one vector for each patch of the log-Mel spectrogram of a sound."""

from torch import Tensor

from wbdc.core.mel_settings import MelSettings
from wbdc.core.tokens import Tokens
from wbdc.nets.modality import Modality


class SoundTower(Modality):
    """A tower that defines `encode`. Subclass it in the file of a plug.

    mel: the spectrogram, whose patches are the rows. steps: the most patches of a video; more are
    sampled by position.
    """

    reads = "sound"

    def __init__(self, *, mel: MelSettings, steps: int):
        super().__init__(width=mel.width, steps=steps)
        self.mel = mel

    def encode(self, patches: Tensor) -> Tensor:
        """Encode M patches: (M, frames, mels) float32 -> (M, dim)."""
        raise NotImplementedError

    def forward(self, rows: Tokens) -> Tokens:
        """Encode each patch on its own: (B, N, frames * mels) -> (B, N, dim)."""
        x = rows.x
        count = x.shape[1]
        if count == 0:  # ranks of a training wait for each other's gradients
            x = x.new_zeros(len(x), 1, self.width)
        patches = x.reshape(-1, self.mel.frames, self.mel.mels)
        vectors = self.encode(patches).unflatten(0, x.shape[:2])
        return Tokens(vectors[:, :count], rows.mask)
