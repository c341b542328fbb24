"""Short lists of weight names, for people: prefixes instead of hundreds of names."""

from collections.abc import Iterable, Sequence

OTHER_PARTS = "rest"  # in learning_rate: the weights that no other part names


def has_prefix(name: str, prefix: str) -> bool:
    """Return whether a weight is called `prefix`, or belongs to the module of this name."""
    return name == prefix or name.startswith(f"{prefix}.")


def shorten_names(names: Iterable[str], all_names: Sequence[str]) -> list[str]:
    """Return the shortest prefixes that stand for exactly these names, in their order."""
    chosen = set(names)
    unchosen = {name for name in all_names if name not in chosen}
    mixed = {prefix for name in unchosen for prefix in _prefixes(name)}
    shortest = [next((p for p in _prefixes(n) if p not in mixed), n) for n in names]
    return list(dict.fromkeys(shortest))


def _prefixes(name: str) -> list[str]:
    """Return a name's prefixes, the shortest first: "a.b.c" -> ["a", "a.b", "a.b.c"]."""
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words) + 1)]
