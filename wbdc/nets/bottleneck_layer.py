"""The fusion layer of a multimodal bottleneck transformer (MBT; Nagrani et al., 2021)."""

from torch import nn

from wbdc.core.tokens import Tokens, join_tokens, split_tokens
from wbdc.nets.attention import TransformerBlock


class BottleneckLayer(nn.Module):
    """One block for text and bottleneck, and one for frames and bottleneck."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.text_block = TransformerBlock(dim, heads, dropout)
        self.frames_block = TransformerBlock(dim, heads, dropout)

    def forward(
        self, text: Tokens, frames: Tokens, bottleneck: Tokens
    ) -> tuple[Tokens, Tokens, Tokens]:
        """Return text (B, N, D), frames (B, M, D) and the mean bottleneck, (B, tokens, D)."""
        text, from_text = attend_together(self.text_block, text, bottleneck)
        frames, from_frames = attend_together(self.frames_block, frames, bottleneck)
        return text, frames, Tokens((from_text.x + from_frames.x) / 2, bottleneck.mask)


def attend_together(
    block: TransformerBlock, tokens: Tokens, bottleneck: Tokens
) -> tuple[Tokens, ...]:
    """Let both sequences attend to both: (B, N, D) and (B, tokens, D). A bottleneck does not attend
    to causal text.
    """
    joined = join_tokens(tokens, bottleneck)
    return split_tokens(block(joined, joined).x, tokens, bottleneck)
