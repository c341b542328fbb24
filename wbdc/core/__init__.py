"""Core: types, errors, files and plugs, which all other folders use."""
