"""Reloads each of which adds an address or removes it again, with clients on it."""

import socket
from pathlib import Path

import msgspec

from benchmarks.reload.outcome import Limits, Outcome
from benchmarks.reload.rig import ScenarioError, rig
from benchmarks.reload.scenarios.driving import TRANSFER, drive, everybody, settings
from tests.fakes.processes import free_port, request

VISITORS = "visitors"


def run(
    directory: Path,
    limits: Limits,
    mode: str = "slot",
    workers: int = 2,
    grace: float = 0.2,
    share: float = 1.0,
    transfer: tuple[float, float] = TRANSFER,
) -> Outcome:
    """Add and remove: what was accepted is answered; before and after, clients are refused, and never reset."""
    with rig(directory, **settings(mode, workers, grace)) as running:
        stays = f"127.0.0.1:{running.gateway.port}"
        port = free_port()
        running.load.start(msgspec.structs.replace(everybody(port, transfer, 0.2), name=VISITORS))
        running.load.expect(VISITORS, answers=False)

        def step(number: int) -> None:
            if number % 2 == 0:
                running.reload(listen=[stays, f"127.0.0.1:{port}"])
                running.load.expect(VISITORS, answers=True)
                _must_answer(port)
            else:
                running.load.expect(VISITORS, answers=False)
                running.reload(listen=[stays])
                _must_refuse(port)

        # The visitors end with the process of the load: the address may be gone now.
        return drive(running, limits, everybody(running.gateway.port, transfer, share), step)


def _must_answer(port: int) -> None:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            status, _ = request(sock, "/token/1")
    except OSError as error:
        raise ScenarioError(f"the address that was added is not served: {error}") from error
    if status != 200:
        raise ScenarioError(f"the address that was added answers {status}")


def _must_refuse(port: int) -> None:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return
    except OSError as error:
        raise ScenarioError(f"the address that was removed does not refuse: {error}") from error
    raise ScenarioError("the address that was removed is served")
