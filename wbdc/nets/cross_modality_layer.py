"""The cross-modality layer of LXMERT (Tan & Bansal, 2019)."""

from torch import nn

from wbdc.core.tokens import Tokens
from wbdc.nets.attention import PostNormAttention, PostNormFeedForward


class CrossModalityLayer(nn.Module):
    """Cross attention in both directions, self-attention, and a feed-forward layer."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.cross_attention = PostNormAttention(dim, heads, dropout)
        self.text_attention = PostNormAttention(dim, heads, dropout)
        self.frames_attention = PostNormAttention(dim, heads, dropout)
        self.text_ffn = PostNormFeedForward(dim, dropout)
        self.frames_ffn = PostNormFeedForward(dim, dropout)

    def forward(self, text: Tokens, frames: Tokens) -> tuple[Tokens, Tokens]:
        """Fuse text (B, N, D) and frames (B, M, D)."""
        # both directions attend to the output of the layer before
        text, frames = self.cross_attention(text, frames), self.cross_attention(frames, text)
        text = self.text_attention(text, text)
        frames = self.frames_attention(frames, frames)
        return self.text_ffn(text), self.frames_ffn(frames)
