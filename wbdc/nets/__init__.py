"""Networks: the language trunk, vision towers, fusions and the model that joins them."""
