"""How many views of a video may be averaged, without torch; see `views`."""

THREE_CROPS = 3
MAX_CLIPS = 16
