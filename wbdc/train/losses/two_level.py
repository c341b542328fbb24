"""A second cross entropy on the groups of the classes, whose probabilities are the sums of those of
their classes (for contests that score two levels).
"""

from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.nets.class_groups import ClassGroups
from wbdc.train.losses import Loss, LossTable, build_loss, expected_loss
from wbdc.train.task import Task


class TwoLevel(Loss):
    """(1 - share) * loss + share * -ln(summed probability of the classes of the label's group).

    A wrong class of the right group costs less than one of another group, as in the score. No
    weights are added: the level-1 classes are marginals of the same logits.

    share: of the level-1 loss. loss: of the classes themselves, as a plug table or a name.

    Raises UsageFault when the classes of the contest have no groups.
    """

    def __init__(self, task: Task, *, share: float = 0.5, loss: LossTable = "cross_entropy"):
        super().__init__(task)
        self.check_between(0, 1, share=share)
        if not task.parents:
            raise UsageFault(
                "loss 'two_level' needs classes in groups, and the classes of this contest have "
                "none; choose another loss, for example cross_entropy"
            )
        self.share = share
        self.leaf_loss = build_loss(loss, task)
        self.takes_soft_labels = self.leaf_loss.takes_soft_labels
        self.floor = (1 - share) * self.leaf_loss.floor
        self.groups = ClassGroups(task.parents)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        scores = self.groups.logsumexp(logits.log_softmax(1))
        group_losses = expected_loss(-self.groups.of_classes(scores), target)
        return (1 - self.share) * self.leaf_loss(logits, target) + self.share * group_losses

    def before_step(self, step: int) -> None:
        """Let the loss of the classes follow the steps."""
        self.leaf_loss.before_step(step)
