"""http-, tcp-, udp-, file-logger and syslog (plugins.md section 7), each against a real receiver."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.certificates import Certificates
from tests.fakes.processes import free_port
from tests.worker.plugins.receivers import TcpReceiver, UdpReceiver, entries, flush, until
from tests.worker.plugins.refusals import complaint
from tests.worker.plugins.test_http_client import Server
from worker.plugins.testing import PluginKit

UPSTREAM = {"nodes": {"127.0.0.1:1980": 1}}
URI = {"log_format": {"uri": "$uri"}}
LINE = re.compile(rb"<46>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \S+ apisix (\d+) - - (\{.*\})\n")


def logging_to(kit: PluginKit, name: str, config: dict[str, Any]) -> None:
    kit.put("routes/kit", {"uri": "/*", "upstream": UPSTREAM, "plugins": {name: {**URI, **config}}})


class Posted:
    """A kit with an HTTP server."""

    def __init__(self, config: dict[str, Any], answer: bytes | None = None) -> None:
        self.kit = PluginKit()
        self.server = Server() if answer is None else Server(answer)
        self.kit.run(self.server.__aenter__())
        logging_to(self.kit, "http-logger", {"uri": f"http://127.0.0.1:{self.server.port}/logs?k=1", **config})

    def __enter__(self) -> "Posted":
        return self

    def __exit__(self, *_: object) -> None:
        self.kit.run(self.server.__aexit__())
        self.kit.close()


def test_http_logger_posts_an_array() -> None:
    with Posted({"auth_header": "Bearer x"}) as posted:
        posted.kit.request(target="/a")
        posted.kit.request(target="/b")
        flush(posted.kit)
        head = posted.server.heads[0].decode().lower()
        assert head.startswith("post /logs?k=1 http/1.1\r\n")
        assert "\r\ncontent-type: application/json\r\n" in head
        assert "\r\nauthorization: bearer x\r\n" in head
        assert [entry["uri"] for entry in entries(posted.server.bodies)] == ["/a", "/b"]


def test_http_logger_posts_single_objects_and_lines() -> None:
    with Posted({"batch_max_size": 1}) as posted:
        posted.kit.request(target="/a")
        flush(posted.kit)
        assert json.loads(posted.server.bodies[0])["uri"] == "/a"
    with Posted({"concat_method": "new_line"}) as posted:
        posted.kit.request(target="/a")
        posted.kit.request(target="/b")
        flush(posted.kit)
        assert "\r\ncontent-type: text/plain\r\n" in posted.server.heads[0].decode().lower()
        assert [json.loads(line)["uri"] for line in posted.server.bodies[0].split(b"\n")] == ["/a", "/b"]


def test_http_logger_takes_400_for_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    with Posted({"max_retry_count": 1, "retry_delay": 0}, refusal) as posted:
        posted.kit.request()
        flush(posted.kit)
        assert len(posted.server.bodies) == 2
        assert "http-logger: 1 entries are lost" in caplog.text
        assert "k=1" not in caplog.text


def test_a_removed_logger_sends_what_waits() -> None:
    with Posted({}) as posted:
        posted.kit.request(target="/a")
        posted.kit.put("routes/kit", {"uri": "/*", "upstream": UPSTREAM})
        posted.kit.run(until(lambda: posted.server.bodies))
        assert [entry["uri"] for entry in entries(posted.server.bodies)] == ["/a"]


def test_tcp_logger_with_tls() -> None:
    certificates = Certificates()
    with PluginKit() as kit:
        receiver = TcpReceiver(certificates.server())
        kit.run(receiver.start())
        logging_to(kit, "tcp-logger", {"host": "127.0.0.1", "port": receiver.port, "tls": True, "tls_options": "a.com"})
        kit.request(target="/a")
        flush(kit)
        kit.run(until(lambda: receiver.received))
        assert receiver.received[0].startswith(b"[{")
        assert receiver.received[0].endswith(b"}]")
        kit.run(receiver.stop())


def test_tcp_logger_tries_again_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    with PluginKit() as kit:
        receiver = TcpReceiver()
        receiver.port = free_port()
        config = {"host": "127.0.0.1", "port": receiver.port, "max_retry_count": 100, "retry_delay": 0.02}
        logging_to(kit, "tcp-logger", {**config, "batch_max_size": 1})
        kit.request(target="/a")
        kit.run(receiver.start())
        flush(kit)
        kit.run(until(lambda: receiver.received))
        kit.run(receiver.stop())


def test_udp_logger() -> None:
    with PluginKit() as kit:
        receiver = UdpReceiver()
        kit.run(receiver.start())
        logging_to(kit, "udp-logger", {"host": "127.0.0.1", "port": receiver.port})
        kit.request(target="/a")
        kit.request(target="/b")
        flush(kit)
        kit.run(until(lambda: receiver.received))
        assert [entry["uri"] for entry in entries(receiver.received)] == ["/a", "/b"]
        kit.run(receiver.stop())


def test_udp_logger_divides_what_is_too_large() -> None:
    with PluginKit() as kit:
        receiver = UdpReceiver()
        kit.run(receiver.start())
        form = {"log_format": {"a": "$arg_a"}}
        logging_to(kit, "udp-logger", {"host": "127.0.0.1", "port": receiver.port, **form})
        for _ in range(4):
            kit.request(target=f"/?a={'x' * 20_000}")
        flush(kit)
        kit.run(until(lambda: len(receiver.received) == 2))
        assert [len(entry["a"]) for entry in entries(receiver.received)] == [20_000] * 4
        kit.run(receiver.stop())


def test_syslog_by_tcp() -> None:
    with PluginKit() as kit:
        receiver = TcpReceiver()
        kit.run(receiver.start())
        logging_to(kit, "syslog", {"host": "127.0.0.1", "port": receiver.port, "flush_limit": 1})
        kit.request(target="/a")
        kit.request(target="/b")
        flush(kit)
        kit.run(until(lambda: receiver.received))
        found = LINE.findall(receiver.received[0])
        assert [json.loads(entry)["uri"] for _, entry in found] == ["/a", "/b"]
        assert b"".join(LINE.split(receiver.received[0])[::3]) == b""
        assert int(found[0][0]) == os.getpid()
        kit.run(receiver.stop())


def test_syslog_by_udp_and_without_what_is_too_large() -> None:
    with PluginKit() as kit:
        receiver = UdpReceiver()
        kit.run(receiver.start())
        config = {"host": "127.0.0.1", "port": receiver.port, "sock_type": "udp", "drop_limit": 300}
        logging_to(kit, "syslog", config)
        kit.request(target="/" + "x" * 300)
        kit.request(target="/b")
        kit.request(target="/c")
        flush(kit)
        kit.run(until(lambda: len(receiver.received) == 2))
        assert [json.loads(LINE.fullmatch(line)[2])["uri"] for line in receiver.received] == ["/b", "/c"]  # type: ignore[index]
        kit.run(receiver.stop())


def test_file_logger(tmp_path: Path) -> None:
    path = tmp_path / "requests.log"

    def lines() -> list[str]:
        return [json.loads(line)["uri"] for line in path.read_text().splitlines()] if path.exists() else []

    with PluginKit() as kit:
        logging_to(kit, "file-logger", {"path": str(path), "match": [[["arg_no", "==", None]], [["arg_a", "==", "1"]]]})
        kit.request(target="/a")
        kit.request(target="/b?no=1")
        kit.request(target="/c?no=1&a=1")
        kit.run(until(lambda: lines() == ["/a", "/c"]))
        path.rename(tmp_path / "old.log")
        kit.context.reopen_logs()
        kit.request(target="/d")
        kit.run(until(lambda: lines() == ["/d"]))
        kit.request(target="/e")
    assert lines() == ["/d", "/e"]


def test_file_logger_by_its_metadata(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "requests.log"
    with PluginKit({"file-logger": {}}) as kit:
        assert kit.request().status == 200
        assert "file-logger has no path" in caplog.text
        kit.put("plugin_metadata/file-logger", {"path": str(path), "log_format": {"uri": "$uri"}})
        kit.request(target="/a")
        kit.run(until(lambda: path.exists() and path.read_text()))
        assert json.loads(path.read_text()) == {"uri": "/a", "route_id": "kit", "service_id": ""}


@pytest.mark.parametrize(
    ("name", "config", "fault"),
    [
        ("http-logger", {}, ": "),
        ("http-logger", {"uri": "ftp://a"}, ".uri: "),
        ("http-logger", {"uri": "http://a", "concat_method": "x"}, ".concat_method: "),
        ("http-logger", {"uri": "http://a", "timeout": 0}, ".timeout: "),
        ("http-logger", {"uri": "http://a", "auth_header": "a\nb"}, ".auth_header: "),
        ("tcp-logger", {"host": "a"}, ": "),
        ("tcp-logger", {"host": "a", "port": 0}, ".port: "),
        ("tcp-logger", {"host": "a", "port": 1, "timeout": 0}, ".timeout: "),
        ("udp-logger", {"port": 1}, ": "),
        ("udp-logger", {"host": "a", "port": 65536}, ".port: "),
        ("syslog", {"host": "a", "port": 1, "sock_type": "x"}, ".sock_type: "),
        ("syslog", {"host": "a", "port": 1, "pool_size": 4}, ".pool_size: "),
        ("syslog", {"host": "a", "port": 1, "flush_limit": 0}, ".flush_limit: "),
        ("syslog", {"host": "a", "port": 0}, ".port: "),
        ("file-logger", {"path": "a", "match": [[["a", "?", "b"]]]}, ".match[0]"),
    ],
)
def test_what_cannot_be_is_refused(name: str, config: dict[str, Any], fault: str) -> None:
    assert complaint(name, config).startswith(fault)
