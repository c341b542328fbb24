"""Relative paths that annotations name."""

from pathlib import PurePosixPath


def is_inside(relative: str) -> bool:
    """Return whether a path is relative and stays inside the folder that it starts from."""
    path = PurePosixPath(relative.replace("\\", "/"))
    is_plain = not {":", "\0"} & set(relative)
    return is_plain and not path.is_absolute() and ".." not in path.parts
