"""A competition kit for classifying short videos by title, speech, on-screen text and frames."""

__version__ = "0.1.0"

# here, because `python -m wbdc` may be stopped before anything else is imported
STOPPED_MESSAGE = "stopped; run the same command again to continue"
STOPPED_CODE = 11  # exit code of wbdc.core.errors.Stopped
