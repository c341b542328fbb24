"""The parts of a contest that a TOML file describes: its settings, metric and result file."""
