"""A gateway under test, and what its control interface says."""

import http.client
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fakes.processes import Gateway

NOT_IN_TIME = 504
LONGEST_WAIT = 60.0  # seconds; what the control interface takes


class ControlError(Exception):
    """The control interface did not answer as it should."""


class WatchedGateway(Gateway):
    """A gateway whose workers are asked how far they are."""

    def __init__(self, directory: Path, workers: int, etcd: Mapping[str, object], **settings: object) -> None:
        super().__init__(
            directory,
            "",
            worker_processes=workers,
            etcd=dict(etcd),
            access_log="off",
            **settings,
        )

    def sync(self) -> dict[str, Any]:
        """Ask what all workers have.

        Raises:
            ControlError: nobody says.
        """
        status, answer = self._get("/v1/sync", 5.0)
        if status != http.HTTPStatus.OK:
            raise ControlError(f"/v1/sync: status {status}: {answer}")
        return answer

    def wait(self, revision: int, timeout: float) -> bool:
        """Wait until all workers have a revision; False when some have not by then, whatever the reason."""
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            try:
                wait = min(left, LONGEST_WAIT)
                status, _ = self._get(f"/v1/sync/wait?revision={revision}&timeout={wait:.3f}", wait + 5.0)
            except ControlError:
                time.sleep(0.05)  # the worker that was asked has been killed
                continue
            if status == http.HTTPStatus.OK:
                return True
            if status != NOT_IN_TIME:
                time.sleep(0.05)
        return False

    def _get(self, path: str, timeout: float) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ControlError(f"{path}: {error!r}") from error
        else:
            return response.status, answer
        finally:
            connection.close()
