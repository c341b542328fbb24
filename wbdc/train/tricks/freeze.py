"""Freeze some weights, for all of the training or layer by layer for a part of it (gradual
unfreezing; Howard & Ruder, 2018).
"""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.train.distributed.shards import is_sharded
from wbdc.train.layer_decay import layer_numbers
from wbdc.train.task import Task
from wbdc.train.tricks import Gradients, Outcome, Trick
from wbdc.train.weight_names import has_prefix, shorten_names


class Freeze(Trick):
    """Frozen weights keep their bits: they get neither a gradient nor weight decay, and a frozen
    batch norm keeps its running statistics. Dropout stays. To freeze a whole vision tower,
    `vision.frozen = true` is faster, because its features are computed once.

    With gradual unfreezing ("Universal Language Model Fine-tuning for Text Classification"), all
    parts are frozen at first; then the last layer of each is trained, then the one before it, and
    the embeddings at last.

    on: prefixes of the names of weights, as in `learning_rate`, for example "fusion.trunk".
    unfreeze_every: share of the training after which each further layer is trained; 0: never. With
    12 layers and 0.05, all are trained after 65% of the steps.

    Raises UsageFault for a prefix that no trainable weight has, and when nothing would be trained.
    """

    def __init__(self, model: nn.Module, task: Task, *, on: list[str], unfreeze_every: float = 0.0):
        super().__init__(model, task)
        self.check_between(0, 1, unfreeze_every=unfreeze_every)
        _check_prefixes(model, on)
        self.layers = unfreezing_order(model, on)
        self.every = max(1, round(unfreeze_every * task.total_steps)) if unfreeze_every else 0
        self.weights = dict(model.named_parameters())
        self.frozen = [name for layer in self.layers for name in layer]
        self.names = set(self.frozen)
        self.trained_layers = -1  # number of layers that are trained; -1: not yet known
        if not self.every:  # before the optimizer is built, which then has no state for them
            self._set_trained_layers(0)

    def summary(self) -> str:
        """Name what is frozen."""
        names = [name for name in self.frozen if name in self.weights]
        size = sum(self.weights[name].numel() for name in names)
        text = f"freezes {len(names)} tensors, {size:,} parameters: "
        text += ", ".join(sorted(shorten_names(names, list(self.weights))))
        if self.every:
            steps = "step" if self.every == 1 else f"{self.every} steps"
            text += f"; trains one more of {len(self.layers)} layers every {steps}"
        return text

    def before_step(self, step: int) -> None:
        """Let the layers that are due be trained."""
        self._set_trained_layers((step - 1) // self.every if self.every else 0)

    def wrap_gradients(self, gradients: Gradients) -> Gradients:
        """Return a function that leaves frozen weights without a gradient, for which the optimizer
        does nothing.
        """

        def partial_gradients(batches: Sequence[Batch]) -> Outcome:
            outcome = gradients(batches)
            for name in self.weights.keys() & set(self.frozen):
                self.weights[name].grad = None
            return outcome

        return partial_gradients

    def _set_trained_layers(self, count: int) -> None:
        """Train the first `count` layers in the order of unfreezing, and freeze the others."""
        if count != self.trained_layers:
            self.trained_layers = count
            self.frozen = [name for layer in self.layers[count:] for name in layer]
            self._require_gradients()
        # in each step, because `fit` puts the whole model into training mode
        frozen = set(self.frozen)
        for name in self.names:
            module = self.model.get_submodule(name.rpartition(".")[0])
            if isinstance(module, _BatchNorm):
                module.train(self.model.training and name not in frozen)

    def _require_gradients(self) -> None:
        """Compute no gradients of frozen weights; sharded ones have them, and lose them later,
        because FSDP reads once whether a weight requires a gradient.
        """
        frozen = set(self.frozen)
        for name in self.weights.keys() & self.names:
            if not (self.every and is_sharded(self.weights[name])):
                self.weights[name].requires_grad_(name not in frozen)


def unfreezing_order(model: nn.Module, prefixes: Sequence[str]) -> list[list[str]]:
    """Return the names of the weights and buffers with one of the prefixes, by layers: first the
    last layer of each prefix, last what comes before its first layer.
    """
    layers: dict[int, list[str]] = {}
    names = list(model.state_dict())
    for prefix in prefixes:
        members = [name for name in names if has_prefix(name, prefix)]
        numbers = layer_numbers([name.removeprefix(f"{prefix}.") for name in members])
        for name, number in zip(members, numbers, strict=True):
            layers.setdefault(max(numbers) - number, []).append(name)
    return [layers[distance] for distance in sorted(layers)]


def _check_prefixes(model: nn.Module, prefixes: Sequence[str]) -> None:
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    for prefix in prefixes:
        if not any(has_prefix(name, prefix) for name in trainable):
            modules = {".".join(n.split(".")[:depth]) for n in trainable for depth in (1, 2, 3)}
            hint = suggest_name(prefix, sorted(modules))
            raise UsageFault(f"trick 'freeze': no trainable weight has the prefix {prefix!r}{hint}")
    if not prefixes:
        raise UsageFault("trick 'freeze': on names no weights; give prefixes, or remove the trick")
    if all(any(has_prefix(name, prefix) for prefix in prefixes) for name in trainable):
        raise UsageFault(
            f"trick 'freeze': on = {list(prefixes)} leaves nothing to train; remove a prefix"
        )
