"""The head of a model whose kit chooses none. Imports no torch."""

DEFAULT_HEAD = {"use": "linear"}
