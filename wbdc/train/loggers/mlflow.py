"""MLflow: a run in the tracking server of MLFLOW_TRACKING_URI, or in a database in the folder of
the fold.
"""

import os
import re
import time
from pathlib import Path

from wbdc.train.loggers import Logger

EXPERIMENT = "wbdc"
MLFLOW_FOLDER = "mlflow"
MAX_PARAMETER_CHARACTERS = 500  # of a value, in all versions
MAX_BATCH_PARAMETERS = 100  # per request


class MLflow(Logger):
    """Writes a metric for each value, and the settings of the kit as parameters.

    Uses a client of its own, so that it changes nothing for other users of MLflow in the process.
    """

    module = "mlflow"
    requirement = "mlflow"

    def __init__(self, folder: Path, name: str, settings: dict[str, object]):
        super().__init__(folder, name, settings)
        from mlflow import MlflowClient

        uri, artifacts = _local_storage(folder)
        self.client = MlflowClient(tracking_uri=uri)
        self.run_id = self._create_run(artifacts)
        self._log_settings()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write the values in one request."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [Metric(allowed_name(name), value, now, step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def close(self) -> None:
        """Mark the run as finished."""
        self.client.set_terminated(self.run_id)

    def _create_run(self, artifacts: str | None) -> str:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            experiment_id = self.client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        else:
            experiment_id = experiment.experiment_id
        return self.client.create_run(experiment_id, run_name=self.name).info.run_id

    def _log_settings(self) -> None:
        from mlflow.entities import Param

        parameters = [
            Param(allowed_name(name), str(value)[:MAX_PARAMETER_CHARACTERS])
            for name, value in self.settings.items()
        ]
        for start in range(0, len(parameters), MAX_BATCH_PARAMETERS):
            batch = parameters[start : start + MAX_BATCH_PARAMETERS]
            self.client.log_batch(self.run_id, params=batch)


def allowed_name(name: str) -> str:
    """Replace the characters that MLflow refuses in names: "match#2" becomes "match_2"."""
    return re.sub(r"[^\w.\-/ ]", "_", name)


def _local_storage(folder: Path) -> tuple[str | None, str | None]:
    """Return the addresses of a database and of the artifacts in the folder of the fold; Nones when
    the user has configured a server.
    """
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return None, None

    storage = (folder / MLFLOW_FOLDER).absolute()
    storage.mkdir(exist_ok=True)
    return f"sqlite:///{storage / 'mlflow.db'}", (storage / "artifacts").as_uri()
