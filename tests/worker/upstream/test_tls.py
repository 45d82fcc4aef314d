"""What connections by TLS have in common, and when a context is made."""

import asyncio
import ssl
import subprocess
import sys
import threading

import pytest

from config_sync.schema import Ssl, UpstreamTls
from config_sync.secrets import Resolver, SecretReference
from tests.fakes.certificates import Certificates
from worker.errors import CertificateInvalid, CertificateMissing
from worker.upstream.pool import Pool, PoolKey
from worker.upstream.pool_by_host import MAX_HOSTS, PoolByHost
from worker.upstream.tls import TlsProfile, TlsProfiles, server_name

CERT, KEY = Certificates().client("a")


def context(profile: TlsProfile) -> ssl.SSLContext:
    async def main() -> ssl.SSLContext:
        return await profile.context(asyncio.get_running_loop())

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"A.com", "a.com"),
        (b"a.com.:8443", "a.com"),
        (b"[::1]:443", "::1"),
        (b"127.0.0.1:80", "127.0.0.1"),
        (b"a_b.test", "a_b.test"),
        (b"a..b", ""),
        (b".a", ""),
        (b"", ""),
        (b"a#1", ""),
        (b"\xff.com", ""),
        (b"a" * 64 + b".com", ""),
    ],
)
def test_names_to_ask_for(host: bytes, name: str) -> None:
    assert server_name(host) == name


def test_equal_settings_share_a_profile_and_its_context() -> None:
    profiles = TlsProfiles()
    identity, profile = profiles.profile(UpstreamTls(client_cert=CERT, client_key=KEY))
    assert profiles.profile(UpstreamTls(client_cert=CERT, client_key=KEY)) == (identity, profile)
    assert profiles.profile(None) != (identity, profile)
    assert profiles.profile(UpstreamTls(client_cert=CERT, client_key=KEY, verify=True))[1] is not profile
    assert context(profile) is context(profile)
    assert context(profile).verify_mode is ssl.CERT_NONE


def test_many_who_connect_at_once_make_one_context() -> None:
    made = []

    async def main() -> None:
        profile = TlsProfiles().profile(None)[1]
        make = profile._make
        profile._make = lambda pairs: made.append(pairs) or make(pairs)  # type: ignore[func-returns-value]
        loop = asyncio.get_running_loop()
        contexts = await asyncio.gather(*(profile.context(loop) for _ in range(5)))
        assert len(set(contexts)) == 1

    asyncio.run(main())
    assert len(made) == 1


def test_certificates_that_are_missing_or_of_no_use() -> None:
    profiles = TlsProfiles()
    by_id = profiles.profile(UpstreamTls(client_cert_id="mine"))[1]
    with pytest.raises(CertificateMissing, match="ssl mine"):
        context(by_id)
    profiles.ssl_changed("mine", Ssl(type="client", cert=CERT, key=KEY))
    assert context(by_id)
    profiles.ssl_changed("mine", Ssl(type="client", cert=CERT, key=Certificates().client("b")[1]))
    with pytest.raises(CertificateInvalid, match="ssl mine"):
        context(by_id)
    profiles.ssl_changed("mine", None)
    with pytest.raises(CertificateMissing):
        context(by_id)
    with pytest.raises(CertificateInvalid, match=r"ssl\.ssl_trusted_certificate"):
        context(TlsProfiles("/nonexistent").profile(UpstreamTls(verify=True))[1])


def test_a_certificate_known_before_is_used_by_upstreams_that_come_later() -> None:
    profiles = TlsProfiles()
    profiles.ssl_changed("mine", Ssl(type="client", cert=CERT, key=KEY))
    assert context(profiles.profile(UpstreamTls(client_cert_id="mine"))[1])


def test_references_are_followed() -> None:
    secrets = Resolver({"CERT": CERT, "KEY": KEY})
    profiles = TlsProfiles(secrets=secrets)
    assert context(profiles.profile(UpstreamTls(client_cert="$env://CERT", client_key="$env://KEY"))[1])
    with pytest.raises(CertificateInvalid, match="NOTHING"):
        context(profiles.profile(UpstreamTls(client_cert="$env://NOTHING", client_key="$env://KEY"))[1])


class Manager:
    """Knows what it has been told."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.asked: set[str] = set()

    def secret(self, reference: SecretReference) -> str | None:
        assert threading.current_thread() is threading.main_thread()
        self.asked.add(reference.key)
        return self.values.get(reference.key)


@pytest.mark.parametrize("is_inline", [True, False])
def test_secrets_are_asked_for_at_once_and_renewed_when_they_change(is_inline: bool) -> None:
    manager = Manager()
    profiles = TlsProfiles(secrets=Resolver({}, {"vault": manager}))
    cert, key = "$secret://vault/1/mine/cert", "$secret://vault/1/mine/key"
    if is_inline:
        profile = profiles.profile(UpstreamTls(client_cert=cert, client_key=key))[1]
    else:
        profiles.ssl_changed("mine", Ssl(type="client", cert=cert, key=key))
        profile = profiles.profile(UpstreamTls(client_cert_id="mine"))[1]
    assert manager.asked == {"cert", "key"}
    with pytest.raises(CertificateInvalid, match="vault/1/mine/cert"):
        context(profile)
    assert profiles.uses_secret(("vault", "1", "mine"))
    assert not profiles.uses_secret(("vault", "1", "other"))
    manager.values = {"cert": CERT, "key": KEY}
    first = context(profile)  # what has failed is tried again
    assert context(profile) is first
    for place, renewed in ((("vault", "1", "other"), 0), (("vault", "1", "mine"), 1)):
        for _ in profiles.secret_changed(place):
            pass
        assert profile.generation == renewed  # by which connections are told apart
    assert context(profile) is not first


def test_an_encrypted_key_asks_nobody() -> None:
    code = (
        "import sys; from worker.upstream.tls import build_context\n"
        "from cryptography.hazmat.primitives import serialization as s\n"
        "key = s.load_pem_private_key(sys.argv[2].encode(), None).private_bytes(\n"
        "    s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b'secret')).decode()\n"
        "build_context(((sys.argv[1], key),), False, '')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, CERT, KEY], capture_output=True, stdin=subprocess.DEVNULL, timeout=20, check=False
    )
    assert done.returncode == 1
    assert b"Enter PEM" not in done.stdout + done.stderr


class Connection:
    origin = None
    idle_since = 0.0
    requests = 1

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_hosts_have_pools_of_their_own() -> None:
    pools: PoolByHost[Connection] = PoolByHost(PoolKey("https", "10.0.0.1", 443, 9, 60.0, 9, sni=None), Pool)
    first = pools.pool(b"a.com")
    assert first.key.sni == "a.com"
    assert pools.pool(b"A.com:443") is first
    assert pools.pool(b"b.com") is not first
    connection = Connection()
    assert first.release(connection)
    assert len(pools) == 1
    for at in range(MAX_HOSTS):
        pools.pool(b"%d.com" % at)
    assert pools.pool(b"A.com") is not first or not connection.closed
    pools.retire()
    assert not pools.pool(b"c.com").release(Connection())


def test_hosts_that_clients_invent_are_bounded() -> None:
    pools: PoolByHost[Connection] = PoolByHost(PoolKey("https", "10.0.0.1", 443, 9, 60.0, 9, sni=None), Pool)
    connection = Connection()
    pools.pool(b"a.com").release(connection)
    for at in range(MAX_HOSTS):
        pools.pool(b"%d.com" % at)
    assert connection.closed
    assert len(pools._by_name) == MAX_HOSTS
