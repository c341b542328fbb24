"""A competition kit for classifying short videos by title, speech, on-screen text and frames."""

__version__ = "0.1.0"
