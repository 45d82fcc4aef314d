"""What of it is a complaint."""

from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.reload import websocket
from benchmarks.reload.rig import Reload
from benchmarks.reload.tally import KEEPALIVE_MIN, Closing, Failure, Fault

DEADLINE_CODES = (websocket.GOING_AWAY, websocket.SERVICE_RESTART)
SLACK = 1.0  # seconds: deadlines are looked at by a timer


def is_late(failure: Failure) -> bool:
    """Tell whether the request came on a connection on which the client was silent for longer than it meant to be.

    Where processes wait for a CPU a client may think for a second instead of 20 ms; who is silent for so long may find
    its connection closed, and the request is lost for no fault of the gateway.
    """
    return failure.quiet >= KEEPALIVE_MIN and failure.fault in (Fault.EOF, Fault.RESET)


def failures(found: Iterable[Failure], why: str = "") -> list[str]:
    """Complain of failures, by kind, each with an example; not of requests that came too late."""
    grouped: dict[tuple[str, str, str], list[Failure]] = {}
    for failure in found:
        if is_late(failure):
            continue
        grouped.setdefault((failure.client, failure.fault, failure.where), []).append(failure)
    return [
        f"{len(alike)} {client}: {fault} ({where}){why}, as at {alike[0].at:.3f} on port {alike[0].port}, "
        f"{alike[0].at - alike[0].opened:.2f} s old, quiet for {alike[0].quiet:.3f} s: {alike[0].detail}"
        for (client, fault, where), alike in sorted(grouped.items())
    ]


def closings(found: Sequence[Closing], reloads: Sequence[Reload], max_generations: int, timeout: float) -> list[str]:
    """Complain of WebSockets that were closed by other codes than 1001 and 1012, or before their deadline.

    Two things may end a drain: ``worker_shutdown_timeout`` since the reload that began it, and more than
    ``max_generations`` old ones.
    """
    codes = Counter(closing.code for closing in found if closing.code not in DEADLINE_CODES)
    complaints = [f"{count} WebSockets were closed with {code}" for code, count in codes.items()]
    early = [closing for closing in found if not _is_due(closing, reloads, max_generations, timeout)]
    if early:
        first = early[0]
        complaints.append(
            f"{len(early)} WebSockets were closed before their deadline, as at {first.at:.3f} on port {first.port} "
            f"after {first.at - first.opened:.1f} s ({first.code} {first.reason})"
        )
    return complaints


def _is_due(closing: Closing, reloads: Sequence[Reload], max_generations: int, timeout: float) -> bool:
    during = [reload for reload in reloads if reload.ended > closing.opened and reload.began < closing.at]
    if len(during) > max_generations:
        return True
    return bool(during) and closing.at - during[0].began > timeout - SLACK
