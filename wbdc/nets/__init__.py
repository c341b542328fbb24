"""The networks: a language trunk, a vision tower, a fusion, a head."""
