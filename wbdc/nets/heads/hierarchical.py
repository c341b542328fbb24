"""Predict the group of a video, and its class within the group: p(group) * p(class | group), for
contests with two levels (hierarchical softmax; Goodman, 2001).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.nets.class_groups import ClassGroups
from wbdc.nets.heads import Head


class Hierarchical(Head):
    """The logits are the log-probabilities ln p(group) + ln p(class | group), of one softmax over
    the groups and one over the classes of each group, as in the word tree of YOLO9000 (Redmon &
    Farhadi, 2017).

    The cross entropy of a class is therefore that of its group plus that of the class among its
    siblings: a rare class competes with its siblings only, and its group learns from all of its
    videos. The sum of a class's and its group's logit under one softmax would be a linear head with
    other weights.

    Raises UsageFault when the classes of the contest have no groups.
    """

    def __init__(self, dim: int, classes: int, parents: Sequence[int]):
        super().__init__(dim, classes, parents)
        if not parents:
            raise UsageFault(
                "head 'hierarchical' needs classes in groups, and the classes of this contest have "
                "none; choose another head, for example linear"
            )
        self.groups = ClassGroups(parents)
        self.of_class = nn.Linear(dim, classes)
        self.of_group = nn.Linear(dim, self.groups.count)

    def forward(self, pooled: Tensor) -> Tensor:
        siblings = self.of_class(pooled).float()
        within = siblings - self.groups.of_classes(self.groups.logsumexp(siblings))
        scores = self.of_group(pooled).float().log_softmax(1)
        return self.groups.of_classes(scores) + within
