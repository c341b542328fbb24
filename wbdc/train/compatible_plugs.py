"""Refuses tricks that do not work together, or not with the objectives and losses of a kit."""

from collections.abc import Sequence

from wbdc.core.errors import UsageFault
from wbdc.core.plug import plug_name
from wbdc.train.losses import Loss
from wbdc.train.objectives import Objective
from wbdc.train.tricks import Trick


def check_compatible(
    objectives: Sequence[Objective], tricks: Sequence[Trick], *, has_pseudo_labels: bool = False
) -> None:
    """Raise UsageFault when two tricks replace the weights that are evaluated; when a trick mixes
    videos and an objective does not expect mixtures; or when a trick or the pseudo-labels of the
    training give soft labels to a loss that takes hard labels only.
    """
    replacing = [plug_name(trick) for trick in tricks if trick.replaces_weights]
    if len(replacing) > 1:
        raise UsageFault(
            f"tricks {replacing[0]!r} and {replacing[1]!r} both replace the weights that are "
            "evaluated and exported; remove one of them"
        )

    mixing = [plug_name(trick) for trick in tricks if trick.mixes_videos]
    pure = [plug_name(objective) for objective in objectives if not objective.accepts_mixtures]
    if mixing and pure:
        raise UsageFault(
            f"trick {mixing[0]!r} mixes videos, and the targets of objective {pure[0]!r} are of "
            "single videos; remove one of them"
        )

    sources = [f"trick {name!r}" for name in mixing] + ["pseudo"] * has_pseudo_labels
    modules = [module for objective in objectives for module in objective.modules()]
    hard = [m for m in modules if isinstance(m, Loss) and not m.takes_soft_labels]
    if sources and hard:
        raise UsageFault(
            f"{sources[0]} makes soft labels, and loss {plug_name(hard[0])!r} takes hard labels "
            "only; choose another loss, or remove what makes them"
        )
