"""Alarms: warnings that a loss is not learned, is too easy, or that embeddings collapse."""

from typing import NamedTuple


class Alarm(NamedTuple):
    """An alarm of a training, which continues.

    kind: "inert", "leaking", "collapsed" or "untrained". name: of the objective; "embeddings" if
    collapsed, "head" if untrained.
    step: after which it was raised. value: what was measured then. level: what it is compared
    with: the chance level of the loss, or the effective rank before training. message: a sentence
    with likely causes and what to try. ended_step: after which it was no longer true, or None.
    """

    kind: str
    name: str
    step: int
    value: float
    level: float
    message: str
    ended_step: int | None = None

    def end_message(self) -> str:
        """Return the sentence that reports the end of the alarm."""
        return f"alarm ended after step {self.ended_step}: {self.name} {self.kind}"
