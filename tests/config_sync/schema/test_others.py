"""Stream routes, protobuf files, secret managers."""

from typing import Any

import pytest

from config_sync.errors import InvalidResource
from config_sync.schema import Aws, Gcp, Vault, decode_proto, decode_secret, decode_stream_route
from tests.config_sync.schema.values import NODES, raw


def test_a_stream_route() -> None:
    value = {"sni": "A.com", "server_port": 9000.0, "upstream": {"scheme": "tcp", **NODES}, "service_id": 4}
    route, _ = decode_stream_route("1", raw(value))
    assert (route.sni, route.server_port, route.service_id) == ("a.com", 9000, "4")
    assert decode_stream_route("1", b"{}")[0].plugins == {}


def test_a_proto() -> None:
    assert decode_proto("1", raw({"content": "x"}))[0].content == "x"


def test_secret_managers_by_key() -> None:
    vault, _ = decode_secret("vault/1", raw({"id": "vault/1", "uri": "http://v", "prefix": "kv", "token": "t"}))
    assert isinstance(vault, Vault)
    assert vault.id == "vault/1"
    aws, _ = decode_secret("aws/1", raw({"access_key_id": "a", "secret_access_key": "b"}))
    assert isinstance(aws, Aws)
    assert aws.region == "us-east-1"
    gcp, _ = decode_secret("gcp/1", raw({"auth_file": "/f"}))
    assert isinstance(gcp, Gcp)
    assert gcp.ssl_verify


@pytest.mark.parametrize(
    ("decode", "id_", "value", "path"),
    [
        (decode_stream_route, "1", {"remote_addr": "a"}, "$.remote_addr"),
        (decode_stream_route, "1", {"server_addr": "10.0.0.0/99"}, "$.server_addr"),
        (decode_stream_route, "1", {"server_port": 0}, "$.server_port"),
        (decode_stream_route, "1", {"sni": ""}, "$.sni"),
        (decode_stream_route, "1", {"protocol": {}}, "$.protocol"),
        (decode_stream_route, "1", {"protocol": {"name": "r", "logger": [{}]}}, "$.protocol.logger[0]"),
        (
            decode_stream_route,
            "1",
            {"protocol": {"name": "r", "logger": [{"name": "s", "filter": [[1]]}]}},
            "$.protocol.logger[0].filter[0][0]",
        ),
        (decode_stream_route, "1", {"upstream": {}}, "$.upstream"),
        (decode_stream_route, "1", {"plugins": {"a": 1}}, "$.plugins['a']"),
        (decode_proto, "1", {}, "$"),
        (decode_proto, "1", {"content": ""}, "$.content"),
        (decode_proto, "1", {"content": "x" * 1048577}, "$.content"),
        (decode_secret, "vault/1", {"uri": "u", "prefix": "p"}, "$"),
        (decode_secret, "vault/1", {"uri": "u", "prefix": "p", "token": 1}, "$.token"),
        (decode_secret, "gcp/1", {}, "$"),
        (decode_secret, "gcp/1", {"auth_config": {"client_email": "a"}}, "$.auth_config"),
        (decode_secret, "vault", {}, "$"),
        (decode_secret, "vault/1/2", {}, "$"),
        (decode_secret, "moon/1", {}, "$"),
    ],
)
def test_bad_values_name_the_place(decode: Any, id_: str, value: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        decode(id_, raw(value))
    assert caught.value.path == path
