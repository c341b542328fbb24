"""Charts: from numbers to the geometry of an SVG, which the templates draw."""
