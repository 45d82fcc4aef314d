"""server-info (plugins.md section 7)."""

import json
import socket
import time

from worker.api.messages import Answer, Request
from worker.api.plugins import PluginHandlers
from worker.plugins.registry import Registry
from worker.plugins.testing import PluginKit
from worker.scoreboard import Scoreboard


def test_the_control_interface_tells_of_the_gateway() -> None:
    entry = Scoreboard(1).allocate(0, 1)
    entry.born_ns = time.monotonic_ns() - 60 * 10**9
    with PluginKit({"server-info": {}}) as kit:
        assert kit.request().status == 200
        handlers = PluginHandlers(kit.context.plugins, entry)
        answers = [handlers.server_info(Request("GET", "/v1/server_info")) for _ in range(2)]
        assert all(isinstance(answer, Answer) and answer.status == 200 for answer in answers)
        told = [json.loads(answer.body) for answer in answers if isinstance(answer, Answer)]
        assert told[0]["hostname"] == socket.gethostname()
        assert len(told[0]["id"]) == 36
        assert told[0]["id"] == told[1]["id"]
        assert told[0]["version"]
        assert abs(told[0]["boot_time"] - (time.time() - 60)) < 5


def test_without_the_plugin_there_is_nothing() -> None:
    with PluginKit() as kit:
        kit.context.plugins.registry = Registry({})
        answer = PluginHandlers(kit.context.plugins, Scoreboard(1).allocate(0, 1)).server_info(Request("GET", "/"))
        assert isinstance(answer, Answer)
        assert answer.status == 404
