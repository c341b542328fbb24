"""The files of a member, by which a program that computes nothing finds them."""

WEIGHTS_FILE = "model.safetensors"
MODEL_FILE = "model.json"
