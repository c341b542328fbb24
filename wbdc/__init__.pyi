from wbdc.competitions import Source as Source
from wbdc.competitions import Video as Video
from wbdc.core.errors import WbdcError as WbdcError
from wbdc.ensemble.opened_models import open_ensemble_folder as open_ensemble
from wbdc.ensemble.opened_models import open_run_folder as open_run
from wbdc.report.opened_report import open_report_folder as open_report

__all__ = ["Source", "Video", "WbdcError", "open_ensemble", "open_report", "open_run"]
__version__: str
STOPPED_MESSAGE: str
STOPPED_CODE: int
