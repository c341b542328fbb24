"""The transformer block equals attention written with loops."""

import ast
import math

import pytest
import torch
import torch.nn.functional as F
import toys  # noqa: F401  one thread
from parsed_modules import parse_modules

from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens
from wbdc.nets.attention import TransformerBlock


def longhand(block: TransformerBlock, tokens: Tokens, context: Tokens) -> torch.Tensor:
    """Pre-norm attention by loops over videos and heads: softmax(q kᵀ / √d) v over the real tokens
    only.
    """
    out = []
    query_input, context_input, d = (
        block.norm_query(tokens.x),
        block.norm_context(context.x),
        tokens.x.shape[-1] // block.heads,
    )
    for b in range(len(tokens.x)):
        real, heads = context.mask[b], []
        q, k, v = (
            block.query(query_input[b]),
            block.key(context_input[b][real]),
            block.value(context_input[b][real]),
        )
        for h in range(block.heads):
            cut = slice(h * d, (h + 1) * d)
            heads.append(((q[:, cut] @ k[:, cut].T) / math.sqrt(d)).softmax(-1) @ v[:, cut])
        x = tokens.x[b] + block.out(torch.cat(heads, -1))
        out.append(x + block.ffn[3](F.gelu(block.ffn[0](block.norm_ffn(x)))))
    return torch.stack(out)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (3, 7), (1, 4)])
def test_a_block_is_masked_softmax_attention_written_longhand(n, m):
    torch.manual_seed(0)
    block = TransformerBlock(16, 4, 0.1).eval()
    tokens = Tokens(torch.randn(3, n, 16), torch.ones(3, n, dtype=torch.bool))
    context = Tokens(torch.randn(3, m, 16), torch.arange(m) < torch.tensor([[m], [1], [2]]))
    attended = block(tokens, context)
    torch.testing.assert_close(attended.x, longhand(block, tokens, context))
    assert torch.equal(attended.mask, tokens.mask)


# what may be a number of -1000 or less: with a base, an exponent, or four digits
LARGE = r"-[\s(]*(0[xobXOB]|[\d_.]+[eE]|(\d_?){4})"


def test_trap_09_no_mask_is_a_large_number():
    """-1e8 is -inf in half precision: masks are booleans, all the way down."""
    for name, tree in parse_modules(LARGE):
        for node in ast.walk(tree):
            large = (
                isinstance(node, ast.UnaryOp)
                and isinstance(node.op, ast.USub)
                and isinstance(node.operand, ast.Constant)
                and node.operand.value >= 1e3
            )
            assert not large, f"{name} line {node.lineno}: -{node.operand.value}"


@pytest.mark.parametrize("dropout", [-0.1, 2.0])
def test_a_dropout_that_is_no_probability_is_refused(dropout):
    with pytest.raises(UsageFault, match=f"fusion: dropout = {dropout:g}; it must be between"):
        TransformerBlock(8, heads=2, dropout=dropout)
