"""Files of pretrained weights: listed, converted from pickles, and downloaded."""
