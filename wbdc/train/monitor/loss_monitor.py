"""The losses of a training beside their chance levels, and alarms about them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from wbdc.core.plug import distinct_names
from wbdc.train.monitor.alarm_rules import (
    ENDED_ERRORS,
    LEAK_VALUES,
    MAX_WINDOW_VALUES,
    MIN_WINDOW_VALUES,
    LossLevels,
    inert_from_step,
    inert_message,
    is_at_chance,
    is_near_floor,
    leaking_message,
    leaking_until_step,
    window_size,
)
from wbdc.train.monitor.alarms import Alarm
from wbdc.train.objectives import Objective

ALARM_MESSAGES = {"inert": inert_message, "leaking": leaking_message}  # by the kind of the alarm


@dataclass
class LossTrack:
    """One loss. values: the last logged ones. count: of all logged values. alarms: by kind."""

    levels: LossLevels
    values: list[float] = field(default_factory=list)
    count: int = 0
    alarms: dict[str, Alarm] = field(default_factory=dict)

    def window(self) -> Sequence[float]:
        """Return the values of the running mean."""
        return self.values[-window_size(self.count) :]

    def add(self, loss: float) -> None:
        """Add a logged value."""
        self.values = [*self.values, loss][-MAX_WINDOW_VALUES:]
        self.count += 1

    def padded_values(self) -> list[float]:
        """Return the last values, after zeros where there are fewer than MAX_WINDOW_VALUES."""
        return [0.0] * (MAX_WINDOW_VALUES - len(self.values)) + self.values


class LossMonitor:
    """Compares losses with their chance levels where they are logged, and reads no tensor itself.

    levels: of each objective, by its name in the log. steps: of the whole training.
    """

    def __init__(self, levels: dict[str, LossLevels], steps: int):
        self.steps = steps
        self.tracks = {name: LossTrack(levels[name]) for name in levels}

    @property
    def alarms(self) -> list[Alarm]:
        """All alarms in the order of their steps, also those that have ended."""
        alarms = [alarm for track in self.tracks.values() for alarm in track.alarms.values()]
        return sorted(alarms, key=lambda alarm: (alarm.step, alarm.name, alarm.kind))

    def chances(self) -> dict[str, float]:
        """Return the chance levels that are known."""
        levels = {name: track.levels.chance for name, track in self.tracks.items()}
        return {name: chance for name, chance in levels.items() if chance is not None}

    def means(self) -> dict[str, float]:
        """Return the running mean of each loss that has a value."""
        return {n: fmean(track.window()) for n, track in self.tracks.items() if track.values}

    def add(self, step: int, losses: dict[str, float]) -> list[Alarm]:
        """Add the losses of a logged step; return the alarms that began or ended.

        Losses that are not finite do not count.
        """
        changed: list[Alarm] = []
        for name, loss in losses.items():
            track = self.tracks[name]
            if math.isfinite(loss):
                track.add(loss)
                changed += self._check(step, name) if track.levels.is_known else []
        return changed

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed training needs, as tensors whose shapes never change."""
        tracks = self.tracks.values()
        alarms = [
            [_alarm_numbers(track.alarms.get(kind)) for kind in ALARM_MESSAGES] for track in tracks
        ]
        return {
            "values": torch.tensor([t.padded_values() for t in tracks], dtype=torch.float64),
            "counts": torch.tensor([track.count for track in tracks]),
            "alarms": torch.tensor(alarms, dtype=torch.float64),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        rows = [state[key].tolist() for key in ("values", "counts", "alarms")]
        for name, values, count, alarms in zip(self.tracks, *rows, strict=True):
            track = self.tracks[name]
            track.count = count
            track.values = values[MAX_WINDOW_VALUES - min(count, MAX_WINDOW_VALUES) :]
            track.alarms = {
                kind: self._alarm(kind, name, int(step), value, int(ended_step) or None)
                for kind, (step, value, ended_step) in zip(ALARM_MESSAGES, alarms, strict=True)
                if step
            }

    def _check(self, step: int, name: str) -> list[Alarm]:
        """Begin and end the alarms of a loss; return those that did."""
        track = self.tracks[name]
        changed = [*self._check_inert(step, name, track), *self._check_leaking(step, name, track)]
        track.alarms |= {alarm.kind: alarm for alarm in changed}
        return changed

    def _check_inert(self, step: int, name: str, track: LossTrack) -> list[Alarm]:
        if step < inert_from_step(self.steps) or track.count < MIN_WINDOW_VALUES:
            return []
        window = track.window()
        alarm = track.alarms.get("inert")
        if alarm is None:
            is_inert = is_at_chance(window, track.levels)
            return [self._alarm("inert", name, step, fmean(window))] if is_inert else []

        has_ended = not is_at_chance(window, track.levels, ENDED_ERRORS)
        return [alarm._replace(ended_step=step)] if has_ended and not alarm.ended_step else []

    def _check_leaking(self, step: int, name: str, track: LossTrack) -> list[Alarm]:
        last_values = track.values[-LEAK_VALUES:]
        is_early = step <= leaking_until_step(self.steps)
        if not is_early or len(last_values) < LEAK_VALUES or "leaking" in track.alarms:
            return []
        is_leaking = is_near_floor(last_values, track.levels)
        return [self._alarm("leaking", name, step, fmean(last_values))] if is_leaking else []

    def _alarm(
        self, kind: str, name: str, step: int, value: float, ended_step: int | None = None
    ) -> Alarm:
        chance = self.tracks[name].levels.chance
        message = ALARM_MESSAGES[kind](name, step, value, chance)
        return Alarm(kind, name, step, value, chance, message, ended_step)


def build_loss_monitor(objectives: Sequence[Objective], steps: int) -> LossMonitor:
    """Build the monitor of a training's objectives."""
    levels = [LossLevels(objective.chance, objective.floor) for objective in objectives]
    return LossMonitor(dict(zip(distinct_names(objectives), levels, strict=True)), steps)


def _alarm_numbers(alarm: Alarm | None) -> list[float]:
    """Return what `restore` rebuilds an alarm from."""
    return [alarm.step, alarm.value, alarm.ended_step or 0] if alarm else [0.0, 0.0, 0.0]
