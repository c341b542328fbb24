from toys import data, kit, ready  # noqa: F401
