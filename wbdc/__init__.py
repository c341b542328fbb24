"""A competition kit for classifying short videos by title, speech, on-screen text and frames.

In Python:

    import wbdc
    run = wbdc.open_run("work/runs/dual_stream-1a2b3c4d")
    run.predict(run.videos("data", "test"))
"""

from importlib import import_module

__all__ = ["Source", "Video", "WbdcError", "open_ensemble", "open_report", "open_run"]
__version__ = "0.1.0"

# here, because `python -m wbdc` may be stopped before anything else is imported
STOPPED_MESSAGE = "stopped; run the same command again to continue"
STOPPED_CODE = 11  # exit code of wbdc.core.errors.Stopped

# __init__.pyi has their types; a packed submission has Source, Video and WbdcError alone
_EXPORTS = {
    "Source": ("wbdc.competitions", "Source"),
    "Video": ("wbdc.competitions", "Video"),
    "WbdcError": ("wbdc.core.errors", "WbdcError"),
    "open_ensemble": ("wbdc.ensemble.opened_models", "open_ensemble_folder"),
    "open_report": ("wbdc.report.opened_report", "open_report_folder"),
    "open_run": ("wbdc.ensemble.opened_models", "open_run_folder"),
}


def __getattr__(name: str) -> object:
    """Import an exported name: the command line starts without torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
