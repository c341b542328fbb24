"""Poolings: from the fused tokens of text and frames to one vector per video."""

from torch import Tensor, nn

from wbdc.core.tokens import Tokens


class Pooling(nn.Module):
    """The contract of a pooling. Subclass it in a file of its own.

    dim: the trunk's width. A pooling ignores padding, for which `Tokens.real` is False.
    takes_modalities: whether it takes further modalities, for example audio, and reads more than
    their first tokens, which in a late fusion have read nothing.
    """

    takes_modalities: bool = False

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, text: Tokens, frames: Tokens, *modalities: Tokens) -> Tensor:
        """Pool fused text and frames, each (B, N, dim), and further modalities, if it takes any,
        to (B, dim).

        Each sequence begins with a real token: of the text "[CLS]", of the others a learned one.
        """
        raise NotImplementedError


Plug = Pooling
