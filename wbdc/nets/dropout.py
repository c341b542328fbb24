"""Dropout (Srivastava et al., 2014) whose random numbers take little time on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

PROBABILITY_STEPS = 2**16  # of a random number of 16 bits
BF16_ONE = 0x3F80  # the bits of 1


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Set each element to zero with probability p, and multiply the others by 1 / (1 - p).

    On a CPU, torch draws a number of 64 bits for each element; here it serves four elements, so p
    is rounded to a multiple of 2 ** -16 there, and a mask takes a quarter of the time. The result
    follows from the seed of torch's generator.
    """
    if not training or p == 0:
        return x
    # torch.compile merges its own dropout with the layers around it
    if x.device.type != "cpu" or p == 1 or torch.compiler.is_compiling():
        return F.dropout(x, p)
    return _Dropout.apply(x, min(round(p * PROBABILITY_STEPS), PROBABILITY_STEPS - 1))


class Dropout(nn.Dropout):
    """`dropout` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x while the module is in training mode."""
        return dropout(x, self.p, self.training)


def use_fast_dropout(module: nn.Module) -> None:
    """Let the dropouts of a module that a library has built be those of this file."""
    for part in module.modules():
        if type(part) is nn.Dropout:
            part.__class__ = Dropout


class _Dropout(Function):
    """dropped: the probability of zero, times PROBABILITY_STEPS."""

    @staticmethod
    def forward(ctx, x: Tensor, dropped: int) -> Tensor:
        ctx.keeps = _draw_mask(x, dropped)
        ctx.factor = 1 / (1 - dropped / PROBABILITY_STEPS)
        return _select(x, ctx.keeps, ctx.factor)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _select(gradient, ctx.keeps, ctx.factor), None


def _draw_mask(x: Tensor, dropped: int) -> Tensor:
    """Draw which elements of x stay: bool, or for BF16 1 or 0 in BF16, of as many bytes as x."""
    # from -2 ** 63 on: without a lower bound, the first bit of an int64 would always be 0
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    numbers = numbers.view(torch.int16)[: x.numel()].view(x.shape)
    if x.dtype == torch.bfloat16:  # in place, since torch converts a bool ten times slower
        return numbers.ge_(dropped - PROBABILITY_STEPS // 2).mul_(BF16_ONE).view(torch.bfloat16)
    return numbers >= dropped - PROBABILITY_STEPS // 2


def _select(x: Tensor, keeps: Tensor, factor: float) -> Tensor:
    # converted first: torch multiplies floats by bools eight times slower
    return (x * keeps.to(x.dtype)).mul_(factor)
