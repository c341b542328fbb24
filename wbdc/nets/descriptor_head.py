"""The head of a descriptor: projects what describes a video's tokens to the width of the trunk.

It is the fully connected layer that follows NetVLAD in Miech et al. (2017), with a layer norm where
they have batch norms: its statistics depend neither on the padding nor on the other videos of a
batch, and are the same in training, on several ranks and in a package.
"""

import torch
from torch import Tensor, nn

from wbdc.core.plug import check_choice
from wbdc.core.tokens import Tokens, join_tokens

DESCRIBED_TOKENS = ("frames", "all")


class DescriptorHead(nn.Module):
    """Chooses the tokens that a descriptor is computed from, and projects it.

    size: of a descriptor. dim: of the result. tokens: "frames", and the mean of the text is
    concatenated to the projected descriptor; or "all", which describes text and frames together.
    Further modalities are described with the frames. gating: multiply by sigmoid(W x + b) (context
    gating; Miech et al., 2017). Raises UsageFault for other tokens.
    """

    def __init__(self, size: int, dim: int, *, tokens: str, gating: bool):
        super().__init__()
        check_choice("pooling", DESCRIBED_TOKENS, tokens=tokens)
        self.project = nn.Linear(size, dim)
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, dim) if gating else None
        self.merge = nn.Linear(2 * dim, dim) if tokens == "frames" else None

    def select(self, text: Tokens, *sequences: Tokens) -> Tokens:
        """Return the tokens to describe, with zeros for padding and a (B, N) mask.

        sequences: frames and further modalities.
        """
        tokens = join_tokens(*((text, *sequences) if self.merge is None else sequences))
        return Tokens(tokens.x.masked_fill(~tokens.real.unsqueeze(-1), 0), tokens.real)

    def forward(self, descriptor: Tensor, text: Tokens) -> Tensor:
        """Project descriptors (B, size) to (B, dim)."""
        pooled = self.norm(self.project(descriptor.to(text.x.dtype)))
        if self.gate is not None:
            pooled = pooled * self.gate(pooled).sigmoid()
        if self.merge is not None:
            pooled = self.merge(torch.cat([text.mean(), pooled], 1))
        return pooled
