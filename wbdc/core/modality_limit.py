"""The rows of a further modality, for example audio, that are stored of each video."""

MAX_STEPS = 256  # more are sampled by position: four minutes of one vector a second
