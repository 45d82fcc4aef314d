"""Metrics for Prometheus: any worker answers for all, by default at 127.0.0.1:9091."""

from typing import TYPE_CHECKING

from config_sync.cache import ConfigStore
from worker.api.messages import Outcome, Portions, Request, failure
from worker.api.server import ApiServer
from worker.api.turns import Turns
from worker.observability.exposition import CONTENT_TYPE, Exposition
from worker.observability.gauges import Gauges
from worker.scoreboard import Scoreboard

if TYPE_CHECKING:
    from worker.context import WorkerContext


class MetricsHandler:
    """Answers scrapes; there is one path."""

    def __init__(self, exposition: Exposition, path: str) -> None:
        self._exposition = exposition
        self._path = path

    def handle(self, request: Request) -> Outcome:
        """Begin to answer."""
        if request.path != self._path:
            return failure(404, f"there is no {request.path}; metrics are at {self._path}")
        if request.method not in ("GET", "HEAD"):
            return failure(405, f"{self._path} answers to GET, HEAD", ("Allow", "GET, HEAD"))
        return Portions(200, self._exposition.portions(), CONTENT_TYPE)


def metrics_server(context: "WorkerContext", store: ConfigStore, board: Scoreboard, turns: Turns) -> ApiServer:
    """Make what serves the metrics of all workers."""
    metrics, settings = context.metrics, context.settings
    metrics.gauges = Gauges(board, store, metrics, context.checks).texts
    handler = MetricsHandler(Exposition(metrics, metrics.gauges), metrics.settings.export_uri)
    return ApiServer(context.loop, settings.backlog, handler.handle, turns)
