"""``/v1/plugins``: the plugins of the worker that answers, and what became of their calls."""

from typing import TYPE_CHECKING, Any

from worker.api.messages import Outcome, Request, failure, json_answer
from worker.plugins.server_info import server_info
from worker.scoreboard import Entry

if TYPE_CHECKING:
    from worker.plugins.host import PluginHost
    from worker.plugins.registry import Registered


class PluginHandlers:
    """Answers from the plugins of this worker."""

    def __init__(self, host: "PluginHost", entry: Entry) -> None:
        self._host = host
        self._entry = entry

    def all(self, _: Request) -> Outcome:
        """Show every plugin, by priority."""
        names = self._host.registry.names()
        uses = self._host.uses()
        items = [self._shown(registered, uses) for name in names if (registered := self._host.registry.get(name))]
        return json_answer(200, {"slot": self._entry.slot, "pid": self._entry.pid, "total": len(items), "items": items})

    def one(self, request: Request) -> Outcome:
        """Show one, with the records in which it is in use."""
        name = request.path.removeprefix("/v1/plugins/")
        registered = self._host.registry.get(name)
        if registered is None:
            return failure(404, f"there is no plugin {name!r}; GET /v1/plugins lists them")
        shown = self._shown(registered, self._host.uses())
        shown["used_in"] = self._host.used_in(name)
        return json_answer(200, {"slot": self._entry.slot, "pid": self._entry.pid, **shown})

    def server_info(self, request: Request) -> Outcome:
        """Tell of this gateway, when the plugin ``server-info`` is there."""
        if self._host.registry.get("server-info") is None:
            return failure(404, "the plugin server-info is not enabled")
        return json_answer(200, server_info(self._host.services.settings, self._entry.born_ns))

    def _shown(self, registered: "Registered", uses: dict[str, int]) -> dict[str, Any]:
        name = registered.name
        record = self._host.statistics.of(name)
        shown: dict[str, Any] = {
            "name": name,
            "priority": registered.plugin.priority,
            "phases": registered.phases,
            "source": registered.source,
            "enabled": self._host.is_enabled(name),
            "fails_closed": registered.fails_closed,
            "uses": uses.get(name, 0),
            "failures": record.failures,
            "late": record.late,
            "blocked": record.blocked,
            "passed_over": name in self._host.suspended,
            "timed_calls": record.calls,
            "average_us": round(record.seconds / record.calls * 1e6, 2) if record.calls else None,
        }
        if record.last_failure:
            shown["last_failure"] = record.last_failure
        return shown
