from toys import data, fresh, kit, ready  # noqa: F401
