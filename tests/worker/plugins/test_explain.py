"""What is told of plugins: which run, in which order, from where; which do not; and what is to be warned of."""

from typing import Any

import msgspec

from worker.api.explain import ExplainHandlers
from worker.api.messages import Portions, Request
from worker.exchange import Exchange
from worker.plugins.base import NoConfig, Plugin
from worker.plugins.testing import PluginKit
from worker.scoreboard import Scoreboard, WorkerState

NODES = {"nodes": {"127.0.0.1:1980": 1}}


class Failing(Plugin[NoConfig]):
    """Fails."""

    name = "failing"

    def log(self, exchange: Exchange) -> None:
        raise RuntimeError("on purpose")


def asked(kit: PluginKit, what: str, query: str = "") -> dict[str, Any]:
    line = Scoreboard(1).allocate(0, 1)
    line.state = WorkerState.READY
    handlers = ExplainHandlers(kit.context, kit.store, line)
    if what == "warnings":
        for _ in kit.context.switcher.shadows.steps():
            pass
    outcome = getattr(handlers, what)(Request("GET", "/", query))
    raw = b"".join(outcome.pieces) if isinstance(outcome, Portions) else outcome.body
    decoded: dict[str, Any] = msgspec.json.decode(raw)
    return decoded


def test_plugins_are_told_in_the_order_in_which_they_run() -> None:
    records = {
        "services/s": {"upstream": NODES, "plugins": {"cors": {}, "echo": {"body": "s"}}},
        "plugin_configs/p": {"plugins": {"cors": {}, "ip-restriction": {"whitelist": ["127.0.0.0/8"]}}},
        "global_rules/g": {"plugins": {"request-id": {"_meta": {"filter": [["arg_x", "==", "1"]]}}}},
        "consumer_groups/vip": {"plugins": {"echo": {"body": "vip"}}},
        "consumers/jack": {
            "group_id": "vip",
            "plugins": {"key-auth": {"key": "k"}, "cors": {"_meta": {"disable": True}}},
        },
        "routes/1": {
            "uri": "/x",
            "service_id": "s",
            "plugin_config_id": "p",
            "plugins": {"key-auth": {}, "uri-blocker": {"block_rules": ["x"], "_meta": {"priority": 9999}}, "none": {}},
        },
    }
    with PluginKit({}, records) as kit:
        told = asked(kit, "explain", "uri=/x")["plugins"]
        assert [(one["name"], one["from"]) for one in told if one["runs"]] == [
            ("request-id", "global_rules/g"),
            ("uri-blocker", "routes/1"),
            ("cors", "plugin_configs/p"),
            ("ip-restriction", "plugin_configs/p"),
            ("key-auth", "routes/1"),
            ("echo", "services/s"),
        ]
        assert told[0] == {
            "name": "request-id",
            "from": "global_rules/g",
            "runs": True,
            "priority": 12015,
            "phases": ["rewrite", "header_filter"],
            "filtered": True,
        }
        assert told[1]["priority"] == 9999
        assert [(one["name"], one["from"], one["reason"]) for one in told if not one["runs"]] == [
            ("none", "routes/1", "there is no such plugin"),
            ("cors", "services/s", "plugin_configs/p has one of its own"),
        ]
        as_jack = asked(kit, "explain", "uri=/x&consumer=jack")["plugins"]
        assert [(one["name"], one["from"]) for one in as_jack if one["runs"]][-2:] == [
            ("key-auth", "routes/1"),
            ("echo", "consumer_groups/vip"),
        ]
        assert ("cors", "consumers/jack", "it is disabled") in [
            (one["name"], one["from"], one.get("reason")) for one in as_jack
        ]
        assert "none called 'jim'" in asked(kit, "explain", "uri=/x&consumer=jim")["error_msg"]
        kit.put("routes/kit", None)
        assert [one["name"] for one in asked(kit, "explain", "uri=/y")["plugins"]] == ["request-id"]


def test_what_does_not_work_is_warned_of() -> None:
    with PluginKit({"none": {}, "off": {"_meta": {"disable": True}}, "failing": {}}, extra=(Failing,)) as kit:
        kit.put("consumers/jack", {"plugins": {"opa": {}}})
        for number in (1, 2):
            kit.put(f"global_rules/{number}", {"plugins": {"echo": {"body": "x"}}})
        kit.request()
        warnings = asked(kit, "warnings")
        told = [(one["key"], one["reason"]) for one in warnings["items"]]
        assert told == [
            ("routes/kit", "there is no plugin none; it does not run"),
            ("consumers/jack", "there is no plugin opa; requests are refused"),
            (
                "global_rules/1",
                "plugin echo is in more than one global rule (global_rules/1, global_rules/2); it does not run",
            ),
            ("plugins/failing", "it has failed 1 times; the last time: RuntimeError: on purpose"),
        ]
        assert warnings["total"] == 4
        kit.put("consumers/jack", None)
        kit.put("routes/kit", {"uri": "/*", "plugins": {}})
        kit.put("global_rules/1", None)
        assert [one["key"] for one in asked(kit, "warnings")["items"]] == ["plugins/failing"]
        echo = next(one for one in asked(kit, "explain", "uri=/x")["plugins"] if one["name"] == "echo")
        assert echo["from"] == "global_rules/2"
