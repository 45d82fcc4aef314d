"""How the tools reach etcd over gRPC, and what they say when they do not.

grpc brings threads, so all of it runs in processes of its own.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.config_sync.ctl.conftest import Tool, etcd, tool
from tests.fakes.processes import PATIENCE, ROOT, Etcd, free_port, wait_until

__all__ = ["etcd", "tool"]


def python(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


IMPORTED = """
import importlib, pkgutil, sys
import master, worker
for module in pkgutil.walk_packages(worker.__path__, "worker."):
    importlib.import_module(module.name)
print(sorted({"etcd3", "grpc", "rich"} & set(sys.modules)))
"""


def test_neither_master_nor_workers_bring_grpc() -> None:
    done = python(IMPORTED)
    assert done.stdout == "[]\n", done.stderr


CONFLICT = """
import sys
from config_sync.errors import WriteConflict
from config_sync.etcd.store import open_store
from config_sync.etcd.transactions import Write
from config_sync.settings import EtcdSettings
with open_store(EtcdSettings(host=(sys.argv[1],))) as store:
    revision = store.write([Write("routes/1", b"{}", 0), Write("routes/2", b"{}", 0)])
    try:
        store.write([Write("routes/1", b"[]", revision), Write("routes/2", None, 1), Write("routes/3", b"{}", 7)])
    except WriteConflict as error:
        print(error.keys)
    print([entry.value for page in store.pages() for entry in page.entries])
"""


def test_a_write_that_was_overtaken_changes_nothing_and_names_the_keys(etcd: Etcd) -> None:
    done = python(CONFLICT, etcd.url)
    assert done.stdout.splitlines() == ["['routes/2', 'routes/3']", "[b'{}', b'{}']"], done.stderr


def test_the_first_endpoint_that_answers_is_used(tool: Tool, etcd: Etcd) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    tool.url = nobody
    assert tool.run("export", "--endpoint", etcd.url).returncode == 0
    refused = tool.run("export")
    assert refused.returncode == 2
    assert f"propylon ctl: etcd at {nobody}: cannot be reached: " in refused.stderr


@pytest.fixture
def guarded(etcd: Etcd) -> Etcd:
    """An etcd that wants to know who asks; alice may read nothing."""
    etcd.call("auth/user/add", {"name": "root", "password": "secret"})
    etcd.call("auth/user/grant", {"user": "root", "role": "root"})
    etcd.call("auth/user/add", {"name": "alice", "password": "wonder"})
    etcd.call("auth/role/add", {"name": "none"})
    etcd.call("auth/user/grant", {"user": "alice", "role": "none"})
    etcd.call("auth/enable", {})
    return etcd


def test_user_and_password(tool: Tool, guarded: Etcd) -> None:
    assert tool.run("export", "--user", "root", password="secret").stdout == "#END\n"
    for user, password in (("root", "wrong"), ("nobody", "secret"), ("alice", "wonder")):
        refused = tool.run("export", "--user", user, password=password)
        assert refused.returncode == 2
        assert "PROPYLON_ETCD_PASSWORD" in refused.stderr
        assert password not in refused.stderr
    assert "user name is empty" in tool.run("export").stderr


def test_credentials_that_nobody_asks_for(tool: Tool, etcd: Etcd) -> None:
    assert tool.run("export", "--user", "root", password="secret").returncode == 0


REFUSED_WATCH = """
import sys
from config_sync.etcd.store import EtcdStore, _client
from config_sync.etcd.client import Endpoint
from config_sync.settings import EtcdSettings
settings = EtcdSettings(host=(sys.argv[1],), user="alice", password="wonder", timeout=5)
client = _client(Endpoint(sys.argv[1], settings), settings, "alice")
with EtcdStore(client, sys.argv[1], settings) as store:
    try:
        print(list(store.watch(1)))
    except Exception as error:
        print(error)
"""


def test_a_refused_watch_does_not_hang(guarded: Etcd) -> None:
    done = python(REFUSED_WATCH, guarded.url)
    assert "permission denied" in done.stdout, done.stderr


@contextmanager
def tls_etcd(tool: Tool, directory: Path, *arguments: str) -> Iterator[None]:
    """Run an etcd that the tool asks over TLS."""
    tool.url, peer = f"https://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "etcd"),
            *("--data-dir", str(directory / "tls-etcd"), "--log-level", "error", "--unsafe-no-fsync"),
            *("--heartbeat-interval", "10", "--election-timeout", "100", *arguments),
            *("--listen-client-urls", tool.url, "--advertise-client-urls", tool.url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def with_tls(directory: Path, **tls: object) -> tuple[str, str]:
    conf = directory / "tls.yaml"
    conf.write_text(json.dumps({"etcd": {"tls": tls}}))
    return "-c", str(conf)


def test_tls(tool: Tool, tmp_path: Path) -> None:
    with tls_etcd(tool, tmp_path, "--auto-tls"):
        trusting = with_tls(tmp_path, ca=str(tmp_path / "tls-etcd/fixtures/client/cert.pem"))
        wait_until(lambda: tool.run("export", *trusting).stdout == "#END\n", "an export over TLS")
        distrusted = tool.run("export")
        assert distrusted.returncode == 2
        assert "cannot be reached" in distrusted.stderr
        unverified = tool.run("export", *with_tls(tmp_path, verify=False))
        assert "etcd.tls.verify: gRPC always verifies" in unverified.stderr


def make_certificates(directory: Path) -> None:
    """Make a CA, and certificates of a server that calls itself etcd.internal and of a client."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, check=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    (directory / "names").write_text("subjectAltName=DNS:etcd.internal\nextendedKeyUsage=serverAuth,clientAuth\n")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/O=propylon")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_mutual_tls_with_a_server_of_another_name(tool: Tool, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    server = ("--cert-file", str(tmp_path / "server.pem"), "--key-file", str(tmp_path / "server.key"))
    with tls_etcd(tool, tmp_path, *server, "--client-cert-auth", "--trusted-ca-file", str(tmp_path / "ca.pem")):
        names = {"ca": str(tmp_path / "ca.pem"), "sni": "etcd.internal"}
        client = {"cert": str(tmp_path / "client.pem"), "key": str(tmp_path / "client.key")}
        both = with_tls(tmp_path, **names, **client)
        wait_until(lambda: tool.run("export", *both).stdout == "#END\n", "an export over mutual TLS")
        assert tool.run("export", *with_tls(tmp_path, **names)).returncode == 2
        assert tool.run("export", *with_tls(tmp_path, ca=names["ca"], **client)).returncode == 2
