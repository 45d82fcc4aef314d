"""``propylon ctl plugin list``: the plugins of a running gateway, as a table."""

import json
from typing import Any

from config_sync.ctl.control import ask
from config_sync.ctl.processes import table
from config_sync.settings import Settings

_HEADS = ("name", "priority", "uses", "failures", "blocked", "us", "phases", "source")
_TEXTS = (0, 6, 7)  # columns that are not figures


def plugins(settings: Settings, control: str, as_json: bool) -> int:
    """Print them; returns 0.

    Raises:
        ConfigError: nobody answers.
    """
    answer = ask(settings, control, "/v1/plugins")
    print(json.dumps(answer, indent=2) if as_json else "\n".join(lines(answer)))
    return 0


def lines(answer: dict[str, Any]) -> list[str]:
    """Write an answer of ``/v1/plugins`` for people."""
    told = table(_HEADS, [_row(plugin) for plugin in answer["items"]], _TEXTS)
    told += ["", f"of worker {answer['slot']} (pid {answer['pid']})"]
    for plugin in answer["items"]:
        if plugin["passed_over"]:
            told.append(f"{plugin['name']} is passed over, since it fails too often: {plugin['last_failure']}")
        elif plugin["failures"]:
            told.append(f"{plugin['name']} has failed, the last time with {plugin['last_failure']}")
        if not plugin["enabled"]:
            told.append(f"{plugin['name']} is not in the list of enabled plugins")
    return told


def _row(plugin: dict[str, Any]) -> list[str]:
    average = plugin["average_us"]
    return [
        plugin["name"],
        *(str(plugin[name]) for name in ("priority", "uses", "failures", "blocked")),
        f"{average:.1f}" if average is not None else "",
        " ".join(plugin["phases"]),
        plugin["source"],
    ]
