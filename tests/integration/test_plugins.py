"""Plugins of one's own in a running gateway: new code by HUP, broken code refused."""

import signal
from pathlib import Path

from tests.fakes.load import Load
from tests.fakes.processes import Etcd, Gateway, wait_until

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
