"""``propylon ctl processes``: the master and the workers of a running gateway, as a table."""

import json
from collections.abc import Sequence
from typing import Any

from config_sync.ctl.control import ask
from config_sync.settings import Settings

_HEADS = (
    *("slot", "pid", "generation", "state", "age", "revision", "idle", "active", "tunnels"),
    *("upstream idle", "active", "accepted", "requests", "rss", "restarts"),
)
_TEXTS = (3,)  # columns that are not figures


def processes(settings: Settings, control: str, as_json: bool) -> int:
    """Print them; returns 0.

    Raises:
        ConfigError: nobody answers.
    """
    answer = ask(settings, control, "/v1/processes")
    print(json.dumps(answer, indent=2) if as_json else "\n".join(lines(answer)))
    return 0


def lines(answer: dict[str, Any]) -> list[str]:
    """Write an answer of ``/v1/processes`` for people."""
    workers = [worker for generation in answer["generations"] for worker in generation["workers"]]
    told = [*_master(answer["master"]), "", *table(_HEADS, [_row(worker) for worker in workers])]
    empty = [str(slot["slot"]) for slot in answer["slots"] if slot["pid"] is None]
    if empty:
        told += ["", f"no worker accepts on slot {', '.join(empty)}"]
    return told


def _master(master: dict[str, Any]) -> list[str]:
    about = (f"propylon {master['version']}", master["phase"], f"generation {master['generation']}")
    told = [f"master {master['pid']}: {', '.join(about)}, up {duration(master['age'])}, {size(master['rss'])}"]
    reload = master["reload"]
    if reload is not None:
        how = "succeeded" if reload["ok"] else f"failed: {reload['reason']}"
        told.append(f"the last reload, {duration(reload['age'])} ago, {how}")
    return told


def _row(worker: dict[str, Any]) -> list[str]:
    connections = worker["connections"]
    figures = [str(connections[kind]) for kind in ("idle", "active", "tunnels", "upstream_idle", "upstream_active")]
    silence = f" {duration(worker['heartbeat_age'])}" if worker["state"] == "hung" else ""
    return [
        *(str(worker[name]) for name in ("slot", "pid", "generation")),
        worker["state"] + silence,
        duration(worker["age"]),
        str(worker["revision"]),
        *figures,
        *(str(worker[name]) for name in ("accepted", "requests")),
        size(worker["rss"]),
        str(worker["restarts"]),
    ]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = _TEXTS) -> list[str]:
    """Lay out columns, figures to the right, and those that are ``texts`` to the left."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at in texts else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    ]


def duration(seconds: float) -> str:
    """Write a duration in its two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    first = next((at for at, (count, _) in enumerate(units) if count), 3)
    return " ".join(f"{count}{unit}" for count, unit in units[first : first + 2])


def size(count: int) -> str:
    """Write a number of bytes in MiB."""
    return f"{count / 2**20:.1f}M"
