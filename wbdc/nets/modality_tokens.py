"""Tokens of a further modality: the vectors of its tower, projected to the width of the trunk."""

import torch
from torch import nn

from wbdc.core.tokens import Tokens
from wbdc.nets.modality import Modality


class ModalityTokens(nn.Module):
    """A tower, the projection of its vectors, embeddings of their positions, and a learned token
    that opens each sequence, so that none is empty: that of a video without the modality is the
    learned token alone.

    name: of the modality, for example "audio". dim: the trunk's width.
    """

    def __init__(self, name: str, tower: Modality, dim: int):
        super().__init__()
        self.name = name
        self.tower = tower
        self.project = nn.Sequential(nn.Linear(tower.dim, dim), nn.LayerNorm(dim))
        self.positions = nn.Embedding(tower.steps, dim)
        self.start = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, rows: Tokens) -> Tokens:
        """Encode the rows of B videos, (B, N, D) float, to (B, 1 + M, dim).

        Raises UsageFault for rows of another width than that of the tower.
        """
        encoded = self.tower(self._read(rows))
        x = self.project(encoded.x) + self.positions.weight[: encoded.x.shape[1]]
        start = self.start.expand(x.shape[0], 1, -1).to(x.dtype)  # not len(x): it is traced
        is_start_real = encoded.mask.new_ones(x.shape[0], 1)
        return Tokens(torch.cat([start, x], 1), torch.cat([is_start_real, encoded.mask], 1))

    def _read(self, rows: Tokens) -> Tokens:
        """Return rows in FP32, with zeros for padding."""
        if rows.x.shape[1] == 0:  # no video has the modality, so the width may be unknown
            x = torch.zeros(*rows.mask.shape, self.tower.width, device=rows.mask.device)
            return Tokens(x, rows.mask)
        self.tower.check_width(self.name, rows.x.shape[2])
        return Tokens(rows.x.float().masked_fill(~rows.mask[..., None], 0), rows.mask)
