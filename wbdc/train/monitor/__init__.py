"""The monitor of a training: losses beside their chance levels, alarms, and the probe."""
