"""Plugins of one's own in a running gateway: new code by HUP, broken code refused."""

import signal
import socket
from pathlib import Path

from config_sync.ctl.plugins import lines
from config_sync.ctl.skeleton import new_plugin
from tests.fakes.load import Load
from tests.fakes.processes import PATIENCE, Etcd, Gateway, read_response, wait_until
from tests.fakes.upstream import Upstream

PLUGIN = """
from worker.plugins.answer import message
from worker.plugins.base import Plugin


class Saying(Plugin):
    name = "saying"

    def access(self, exchange):
        return message(200, "{word}")
"""


def test_a_plugin_changes_with_hup_and_a_broken_one_is_refused(gateway: Gateway, etcd: Etcd, tmp_path: Path) -> None:
    directory = tmp_path / "own"
    directory.mkdir()
    file = directory / "saying.py"
    file.write_text(PLUGIN.replace("{word}", "one"))
    gateway.write_conf(plugins={"path": str(directory)})
    done = gateway.command("-s", "reload")
    assert done.returncode == 0, done.stderr
    gateway.applied(etcd.put("routes/saying", {"uri": "/say", "plugins": {"saying": {}}}))
    assert gateway.get("/say") == (200, b'{"message":"one"}\n')

    with Load(gateway) as load:
        file.write_text(PLUGIN.replace("{word}", "two"))
        done = gateway.command("-s", "reload")
        assert done.returncode == 0, done.stderr
        wait_until(lambda: gateway.get("/say") == (200, b'{"message":"two"}\n'), "the new code serves")
        before = gateway.workers()

        file.write_text(PLUGIN.replace("{word}", "three") + "\nnone.here\n")
        done = gateway.command("-s", "reload")
        assert done.returncode == 1
        assert "NameError" in done.stderr
        assert f"{file}:{len(file.read_text().splitlines())}" in done.stderr
        assert gateway.get("/say") == (200, b'{"message":"two"}\n')
        assert before <= gateway.workers()
    assert load.failures == []

    file.write_text(PLUGIN.replace("{word}", "four"))
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: gateway.get("/say") == (200, b'{"message":"four"}\n'), "the mended code serves")


def test_a_plugin_that_is_begun_as_told_runs(gateway: Gateway, etcd: Etcd, upstream: Upstream, tmp_path: Path) -> None:
    directory = tmp_path / "own"
    directory.mkdir()
    new_plugin("say-the-word", directory)
    gateway.write_conf(plugins={"path": str(directory)})
    done = gateway.command("-s", "reload")
    assert done.returncode == 0, done.stderr
    nodes = {f"127.0.0.1:{upstream.port}": 1}
    route = {"uri": "/word", "upstream": {"nodes": nodes}, "plugins": {"say-the-word": {"word": "now"}}}
    gateway.applied(etcd.put("routes/word", route))
    assert gateway.get("/word") == (403, b'{"message":"the word is missing"}\n')
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE) as sock:
        sock.sendall(b"GET /word HTTP/1.1\r\nHost: a.com\r\nX-Word: now\r\n\r\n")
        assert read_response(sock)[0] == 200
    listed = gateway.control("/v1/plugins/say-the-word")[1]
    assert listed["source"] == str(directory / "say_the_word.py")
    assert any("say-the-word" in line for line in lines(gateway.control("/v1/plugins")[1]))
    gateway.applied(etcd.put("routes/word", {**route, "plugins": {"say-the-word": {"word": ""}}}))
    assert gateway.control("/v1/config/errors")[1]["items"][0]["path"] == "$.plugins['say-the-word'].word"
