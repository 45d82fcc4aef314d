"""jwt-auth (plugins.md section 3)."""

import json
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from worker.exchange import Exchange
from worker.plugins.answer import Answer, json_answer
from worker.plugins.base import NoConfig, Plugin
from worker.plugins.jwt_auth import parsed
from worker.plugins.testing import PluginKit
from worker.variables import accessor

SECRET = "a secret that is long enough for every one of the hash algorithms, so no library needs to warn of it"


@lru_cache(maxsize=16)
def pair(kind: str) -> tuple[str, str]:
    """Make a private and a public key."""
    make: dict[str, Callable[[], Any]] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ed448": ed448.Ed448PrivateKey.generate,
    }
    key = make[kind]()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return private, public


def records(**auth: Any) -> dict[str, Any]:
    return {"consumers/jim": {"username": "jim", "plugins": {"jwt-auth": {"key": "jim-key", **auth}}}}


def token(claims: dict[str, Any] | None = None, algorithm: str = "HS256", key: str = SECRET, **head: Any) -> str:
    payload = {"key": "jim-key", **(claims or {})}
    return jwt.encode(payload, key, algorithm, headers=head or None)


def status(kit: PluginKit, text: str, header: str = "Authorization") -> int:
    return kit.request(headers={header: text}).status


def refused(kit: PluginKit, text: str, because: str) -> None:
    answer = kit.request(headers={"Authorization": text})
    assert (answer.status, answer.body, answer.upstream) == (401, b'{"message":"%b"}\n' % because.encode(), None)
    assert answer.header("www-authenticate") == 'Bearer realm="jwt"'


KINDS = [
    *(("RS256", "rsa"), ("RS384", "rsa"), ("RS512", "rsa"), ("PS256", "rsa"), ("PS384", "rsa"), ("PS512", "rsa")),
    *(("ES256", "p256"), ("ES384", "p384"), ("ES512", "p521"), ("EdDSA", "ed25519"), ("EdDSA", "ed448")),
]


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_token_signed_with_the_secret_opens(algorithm: str) -> None:
    with PluginKit({"jwt-auth": {}}, records(secret=SECRET, algorithm=algorithm)) as kit:
        assert status(kit, token(algorithm=algorithm)) == 200
        refused(kit, token(algorithm=algorithm, key=SECRET + "!"), "failed to verify jwt")
        refused(kit, token(algorithm=algorithm)[:-4], "failed to verify jwt")
        refused(kit, token(algorithm=algorithm).rpartition(".")[0] + ".", "failed to verify jwt")


@pytest.mark.parametrize(("algorithm", "kind"), KINDS)
def test_a_token_signed_with_the_private_key_opens(algorithm: str, kind: str) -> None:
    private, public = pair(kind)
    with PluginKit({"jwt-auth": {}}, records(public_key=public, algorithm=algorithm)) as kit:
        text = token(algorithm=algorithm, key=private)
        assert status(kit, f"Bearer {text}") == 200
        head, payload, signature = text.split(".")
        other = urlsafe_b64encode(b'{"key":"jim-key","admin":1}').rstrip(b"=").decode()
        refused(kit, f"{head}.{other}.{signature}", "failed to verify jwt")
        refused(kit, f"{head}.{payload}.AAAA", "failed to verify jwt")


def test_the_public_key_is_no_secret_for_another_algorithm() -> None:
    private, public = pair("rsa")
    header = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    payload = urlsafe_b64encode(b'{"key":"jim-key"}').rstrip(b"=")
    from hmac import digest

    forged = header + b"." + payload
    forged += b"." + urlsafe_b64encode(digest(public.encode(), forged, "sha256")).rstrip(b"=")
    with PluginKit({"jwt-auth": {}}, records(public_key=public, algorithm="RS256")) as kit:
        refused(kit, forged.decode(), "failed to verify jwt")
        refused(kit, token(algorithm="RS512", key=private), "failed to verify jwt")
        refused(kit, jwt.encode({"key": "jim-key"}, "", "none"), "failed to verify jwt")
    with PluginKit({"jwt-auth": {}}, records(secret=SECRET)) as kit:
        refused(kit, jwt.encode({"key": "jim-key"}, "", "none"), "failed to verify jwt")
        refused(kit, token(crit=["x"], x=1), "failed to verify jwt")


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("ES256", "p384"), ("RS256", "p256"), ("ES256", "ed25519"), ("EdDSA", "rsa"), ("RS256", "-----BEGIN nonsense")],
)
def test_a_key_of_another_kind_verifies_nothing(algorithm: str, key: str) -> None:
    right = {"ES256": "p256", "RS256": "rsa", "EdDSA": "ed25519"}[algorithm]
    public = pair(key)[1] if key[0] != "-" else key
    with PluginKit({"jwt-auth": {}}, records(public_key=public, algorithm=algorithm)) as kit:
        refused(kit, token(algorithm=algorithm, key=pair(right)[0]), "failed to verify jwt")


def test_a_private_key_is_no_public_one() -> None:
    private = pair("rsa")[0]
    with PluginKit({"jwt-auth": {}}, records(public_key=private, algorithm="RS256")) as kit:
        refused(kit, token(algorithm="RS256", key=private), "failed to verify jwt")


def test_a_secret_may_be_in_base64() -> None:
    secret = b64encode(SECRET.encode()).decode()
    with PluginKit({"jwt-auth": {}}, records(secret=secret, base64_secret=True)) as kit:
        assert status(kit, token()) == 200
        refused(kit, token(key=secret), "failed to verify jwt")


def test_where_the_token_may_be() -> None:
    text = token()
    with PluginKit({"jwt-auth": {}}, records(secret=SECRET)) as kit:
        for value in (text, f"Bearer {text}", f"bearer {text}"):
            assert status(kit, value) == 200
        assert kit.request(target=f"/?jwt={text}").status == 200
        assert kit.request(headers={"Cookie": f"a=b; jwt={text}"}).status == 200
        refused(kit, f"BEARER {text}", "JWT token invalid")
        answer = kit.request(target=f"/?jwt={text}", headers={"Authorization": "x"})  # the header goes first
        assert answer.json() == {"message": "JWT token invalid"}
        answer = kit.request(target="/?jwt=x", headers={"Cookie": f"jwt={text}"})  # and then the query
        assert answer.json() == {"message": "JWT token invalid"}
    names = {"header": "x-token", "query": "t", "cookie": "c"}
    with PluginKit({"jwt-auth": names}, records(secret=SECRET)) as kit:
        assert status(kit, text, "X-Token") == 200
        assert kit.request(target=f"/?t={text}").status == 200
        assert kit.request(headers={"Cookie": f"c={text}"}).status == 200
        assert kit.request(headers={"Authorization": text}).json() == {"message": "Missing JWT token in request"}


def test_the_token_is_hidden_where_it_was_found() -> None:
    text = token()
    with PluginKit({"jwt-auth": {"hide_credentials": True}}, records(secret=SECRET)) as kit:
        upstream = kit.request(target="/?jwt=kept", headers={"Authorization": text, "X-A": "1"}).upstream
        assert upstream is not None
        assert (upstream.header("authorization"), upstream.target) == (None, "/?jwt=kept")
        upstream = kit.request(target=f"/?a=1&jwt={text}").upstream
        assert upstream is not None
        assert upstream.target == "/?a=1"
        upstream = kit.request(headers={"Cookie": f"a=b; jwt={text};c=d"}).upstream
        assert upstream is not None
        assert upstream.header("cookie") == "a=b; c=d"
        upstream = kit.request(headers={"Cookie": f"jwt={text}"}).upstream
        assert upstream is not None
        assert upstream.header("cookie") is None


def part(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Bearer ",
        "a.b",
        "a.b.c.d",
        "!!.!!.!!",
        f"{part([])}.{part({})}.AA",
        f"{part({})}.{part([])}.AA",
        f"{part({})}.{part({})}.A",
        f"{part({})}=.{part({})}.AA",
        "ä.b.c",
    ],
)
def test_what_is_no_token_is_told(text: str) -> None:
    with PluginKit({"jwt-auth": {}}, records(secret=SECRET)) as kit:
        refused(kit, text, "JWT token invalid")
        assert kit.request().json() == {"message": "Missing JWT token in request"}


def test_the_claim_that_names_the_key() -> None:
    with PluginKit({"jwt-auth": {}}, records(secret=SECRET)) as kit:
        refused(kit, jwt.encode({"sub": "x"}, SECRET), "missing user key in JWT token")
        refused(kit, token({"key": "nobody"}), "Invalid user key in JWT token")
        refused(kit, token({"key": 1}), "Invalid user key in JWT token")
    with PluginKit({"jwt-auth": {"key_claim_name": "iss"}}, records(secret=SECRET)) as kit:
        assert status(kit, token({"iss": "jim-key", "key": None})) == 200
        refused(kit, token(), "missing user key in JWT token")


NOW = int(time.time())


@pytest.mark.parametrize(
    ("claims", "to_verify", "grace", "is_good"),
    [
        ({}, [], 0, True),
        ({}, ["exp"], 0, False),
        ({}, ["nbf"], 0, False),
        ({"exp": NOW + 600}, ["exp"], 0, True),
        ({"exp": NOW - 10}, [], 0, False),
        ({"exp": NOW - 10}, ["nbf"], 0, False),
        ({"exp": NOW - 10}, [], 600, True),
        ({"nbf": NOW - 1}, ["nbf"], 0, True),
        ({"nbf": NOW + 600}, [], 0, False),
        ({"nbf": NOW + 600}, ["exp"], 0, False),
        ({"nbf": NOW + 60}, [], 600, True),
        ({"exp": NOW + 600.5, "nbf": NOW - 600.5}, ["exp", "nbf"], 0, True),
        ({"exp": True}, [], 0, False),
    ],
)
def test_exp_and_nbf(claims: dict[str, Any], to_verify: list[str], grace: int, is_good: bool) -> None:
    config = {"claims_to_verify": to_verify}
    with PluginKit({"jwt-auth": config}, records(secret=SECRET, lifetime_grace_period=grace)) as kit:
        if is_good:
            assert status(kit, token(claims)) == 200
        else:
            refused(kit, token(claims), "failed to verify jwt")


@pytest.mark.parametrize("value", ["tomorrow", None, [1], {}])
def test_claims_of_time_are_numbers(value: object) -> None:
    from jwt import PyJWS

    text = PyJWS().encode(json.dumps({"key": "jim-key", "exp": value}).encode(), SECRET)
    with PluginKit({"jwt-auth": {}}, records(secret=SECRET)) as kit:
        refused(kit, text, "failed to verify jwt")


class Telling(Plugin[NoConfig]):
    """Answers with the payload."""

    name = "telling"

    def access(self, exchange: Exchange) -> Answer:
        return json_answer(200, accessor("jwt_auth_payload")(exchange))


def test_the_payload_is_kept_when_it_is_wanted() -> None:
    for store, told in ((True, {"key": "jim-key", "a": [1]}), (False, None)):
        plugins = {"jwt-auth": {"store_in_ctx": store}, "telling": {}}
        with PluginKit(plugins, records(secret=SECRET), extra=(Telling,)) as kit:
            assert kit.request(headers={"Authorization": token({"a": [1]})}).json() == told


@pytest.mark.parametrize(
    "config",
    [
        {"header": ""},
        {"key_claim_name": ""},
        {"claims_to_verify": ["iat"]},
        {"store_in_ctx": "yes"},
        {"realm": ""},
        {"query": 1},
        {"cookie": 1},
    ],
)
def test_what_cannot_be_configured_is_refused(config: dict[str, Any]) -> None:
    with PluginKit() as kit:
        assert next(iter(config)) in kit.refuses({"jwt-auth": config})


@pytest.mark.parametrize(
    ("auth", "path"),
    [
        ({}, "secret"),
        ({"secret": ""}, "secret"),
        ({"secret": "!", "base64_secret": True}, "secret"),
        ({"algorithm": "RS256", "secret": "s"}, "public_key"),
        ({"algorithm": "none"}, "algorithm"),
        ({"secret": "s", "key": ""}, "key"),
        ({"secret": "s", "lifetime_grace_period": -1}, "lifetime_grace_period"),
        ({"secret": "s", "exp": 0}, "exp"),
    ],
)
def test_what_a_consumer_cannot_have_is_refused(auth: dict[str, Any], path: str) -> None:
    with PluginKit() as kit, pytest.raises(AssertionError, match=path):
        kit.put("consumers/jim", records(**auth)["consumers/jim"])


@given(st.text())
def test_nothing_that_is_sent_breaks_it(text: str) -> None:
    parsed(text)
    parsed(f"{part({})}.{text}.AA")
