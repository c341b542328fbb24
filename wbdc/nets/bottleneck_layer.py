"""The fusion layer of a multimodal bottleneck transformer (MBT; Nagrani et al., 2021)."""

from torch import nn

from wbdc.core.tokens import Tokens, join_tokens, split_tokens
from wbdc.nets.attention import TransformerBlock


class BottleneckLayer(nn.Module):
    """One block for text and bottleneck, and one for frames and bottleneck; further modalities use
    the latter.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.text_block = TransformerBlock(dim, heads, dropout)
        self.frames_block = TransformerBlock(dim, heads, dropout)

    def forward(
        self, text: Tokens, sequences: tuple[Tokens, ...], bottleneck: Tokens
    ) -> tuple[Tokens, tuple[Tokens, ...], Tokens]:
        """Return text (B, N, D), the sequences, (B, M, D) each, and the mean of the bottlenecks
        after each of these has been attended to, (B, tokens, D).

        sequences: frames and further modalities.
        """
        text, total = attend_together(self.text_block, text, bottleneck)
        attended = []
        for tokens in sequences:
            tokens, part = attend_together(self.frames_block, tokens, bottleneck)
            attended.append(tokens)
            total = Tokens(total.x + part.x, bottleneck.mask)
        mean = total.x / (1 + len(sequences))
        return text, tuple(attended), Tokens(mean, bottleneck.mask)


def attend_together(
    block: TransformerBlock, tokens: Tokens, bottleneck: Tokens
) -> tuple[Tokens, ...]:
    """Let both sequences attend to both: (B, N, D) and (B, tokens, D). A bottleneck does not attend
    to causal text.
    """
    joined = join_tokens(tokens, bottleneck)
    return split_tokens(block(joined, joined).x, tokens, bottleneck)
