"""Poolings in loops over the real tokens of one video, as their papers write them.

Each takes a pooling, whose weights it reads, the words (n, D) and the frames (m, D), of which the
first is the start token; and returns (D,).
"""

import torch
from torch import Tensor, nn


def attention(pooling: nn.Module, tokens: Tensor) -> Tensor:
    hidden, _, output = pooling.score
    exponentials = [
        (output.weight[0] @ (hidden.weight @ x + hidden.bias).tanh()).exp() for x in tokens
    ]
    return sum(e * x for e, x in zip(exponentials, tokens, strict=True)) / sum(exponentials)


def four_poolings(pooling: nn.Module, words: Tensor, frames: Tensor) -> Tensor:
    tokens = torch.cat([words, frames])
    largest = torch.tensor([max(column) for column in tokens.T.tolist()])
    mean = sum(tokens) / len(tokens)
    return pooling.project(torch.cat([mean, largest, attention(pooling, tokens), words[0]]))


def netvlad(pooling: nn.Module, words: Tensor, frames: Tensor) -> Tensor:
    clusters = []
    for k, center in enumerate(pooling.centers):
        residuals = [_share(pooling.assign, x, k) * (x - center) for x in frames]
        clusters.append(_unit(sum(residuals)))
    return _head(pooling.head, torch.cat(clusters), words)


def net_rvlad(pooling: nn.Module, words: Tensor, frames: Tensor) -> Tensor:
    clusters = []
    for k in range(pooling.assign.out_features):
        clusters.append(_unit(sum(_share(pooling.assign, x, k) * x for x in frames)))
    return _head(pooling.head, torch.cat(clusters), words)


def soft_dbow(pooling: nn.Module, words: Tensor, frames: Tensor) -> Tensor:
    bag = [
        sum(_share(pooling.assign, x, k) for x in frames)
        for k in range(pooling.assign.out_features)
    ]
    return _head(pooling.head, torch.stack(bag), words)


def netfv(pooling: nn.Module, words: Tensor, frames: Tensor) -> Tensor:
    first = []
    second = []
    for k, center in enumerate(pooling.centers):
        z = [(x - center) / pooling.log_deviations[k].exp() for x in frames]
        shares = [_share(pooling.assign, x, k) for x in frames]
        first.append(_unit(sum(a * v for a, v in zip(shares, z, strict=True))))
        second.append(_unit(sum(a * (v**2 - 1) for a, v in zip(shares, z, strict=True))))
    halves = [_unit(torch.cat(first)), _unit(torch.cat(second))]
    return _head(pooling.head, torch.cat(halves), words)


def nextvlad(pooling: nn.Module, words: Tensor, frames: Tensor) -> Tensor:
    clusters = [torch.zeros(pooling.centers.shape[1]) for _ in pooling.centers]
    for x in frames:
        expanded = pooling.expand.weight @ x + pooling.expand.bias
        attentions = 1 / (1 + (-(pooling.attend.weight @ expanded + pooling.attend.bias)).exp())
        scores = pooling.assign.weight @ expanded + pooling.assign.bias
        for g, (group, attention_to_group) in enumerate(
            zip(expanded.chunk(pooling.groups), attentions, strict=True)
        ):
            own = scores.chunk(pooling.groups)[g].exp()
            for k, center in enumerate(pooling.centers):
                clusters[k] = clusters[k] + attention_to_group * own[k] / own.sum() * (
                    group - center
                )
    return _head(pooling.head, torch.cat([_unit(c) for c in clusters]), words)


def frame_similarity(pooling: nn.Module, words: Tensor, frames: Tensor) -> Tensor:
    tokens = torch.cat([words, frames])
    pooled = sum(tokens) / len(tokens) + pooling.project.bias
    pictures = frames[1:]
    for shift in (1, 2, 3):
        for i in range(len(pictures) - shift):
            cosine = _unit(pictures[i]) @ _unit(pictures[i + shift])
            pooled = pooled + cosine * pooling.project.weight[:, (shift - 1) * 32 + i]
    return pooled


def _share(assign: nn.Linear, x: Tensor, cluster: int) -> Tensor:
    """Return which share of a token belongs to a cluster."""
    scores = assign.weight @ x + assign.bias
    return scores[cluster].exp() / scores.exp().sum()


def _unit(vector: Tensor) -> Tensor:
    return vector / (vector @ vector).sqrt()


def _head(head: nn.Module, descriptor: Tensor, words: Tensor) -> Tensor:
    """Project a descriptor whose mean square is scaled to 1, gate it, and add the text's mean."""
    scaled = descriptor / descriptor.square().mean().sqrt()
    pooled = head.norm(head.project.weight @ scaled + head.project.bias)
    pooled = pooled / (1 + (-(head.gate.weight @ pooled + head.gate.bias)).exp())
    return head.merge.weight @ torch.cat([words.mean(0), pooled]) + head.merge.bias
