"""Values as tools of APISIX write them, and what is needed to make more."""

import json
from base64 import b64encode
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

KEYS = ("qeddd145sfvddff3", "edd1c9f0985e76a2")  # APISIX's default keyring
NODES = {"nodes": {"127.0.0.1:1980": 1}}
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n" + "MIIB" * 32 + "\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\n" + "MC4C" * 16 + "\n-----END PRIVATE KEY-----\n"


def raw(value: object) -> bytes:
    return json.dumps(value).encode()


def encrypted(text: str, key: str = KEYS[0]) -> str:
    data = text.encode()
    missing = 16 - len(data) % 16
    encryptor = Cipher(AES(key.encode()), CBC(key.encode()[:16])).encryptor()
    return b64encode(encryptor.update(data + bytes([missing]) * missing) + encryptor.finalize()).decode()


UPSTREAM: dict[str, Any] = {
    "type": "chash",
    "hash_on": "header",
    "key": "X-User",
    "nodes": [
        {"host": "10.0.0.1", "port": 80, "weight": 1, "priority": -1, "metadata": {"zone": "a"}},
        {"host": "::1", "weight": 2.0},
    ],
    "scheme": "https",
    "retries": 2,
    "retry_timeout": 1.5,
    "timeout": {"connect": 0.5, "send": 1, "read": 2},
    "pass_host": "rewrite",
    "upstream_host": "inner.example.com",
    "keepalive_pool": {"size": 10, "idle_timeout": 5, "requests": 100},
    "tls": {"client_cert": CERTIFICATE, "client_key": encrypted(KEY)},
    "checks": {
        "active": {"type": "http", "http_path": "/health", "healthy": {"interval": 2, "successes": 1}, "unhealthy": {}},
        "passive": {"healthy": {"http_statuses": [200]}, "unhealthy": {"http_failures": 0}},
    },
    "name": "u",
    "desc": "peers",
    "labels": {"team": "a"},
    "create_time": 1700000000,
    "update_time": 1700000000,
}
PLUGINS = {
    "limit-count": {"count": 10, "time_window": 60, "redis_password": encrypted("hidden"), "_meta": {"priority": 5}},
    "proxy-rewrite": {"headers": {"set": {"X-A": "b"}}, "_meta": {"filter": [["arg_a", "==", "1"]], "disable": False}},
    "kafka-logger": {"brokers": [{"host": "a", "port": 9092, "sasl_config": {"user": "u", "password": "$env://P"}}]},
}
EXAMPLES: list[tuple[str, str, Any]] = [
    (
        "routes",
        "r1",
        {
            "id": "r1",
            "uris": ["/a", "/b/*"],
            "hosts": ["A.com", "*.b.com"],
            "methods": ["GET", "POST"],
            "remote_addrs": ["10.0.0.0/8", "::1"],
            "priority": 3,
            "vars": [["arg_a", "==", "1"], ["OR", ["http_x", "~~", "^a"], ["remote_addr", "ipmatch", ["10.0.0.0/8"]]]],
            "plugins": PLUGINS,
            "plugin_config_id": 5,
            "upstream": UPSTREAM,
            "service_id": "s1",
            "timeout": {"connect": 1, "send": 1, "read": 1},
            "enable_websocket": True,
            "status": 1,
        },
    ),
    ("routes", "r2", {"uri": "/a", "host": "a.com", "upstream_id": "1", "remote_addr": "10.0.0.1", "status": 0}),
    ("services", "s1", {"name": "s", "hosts": ["a.com"], "plugins": PLUGINS, "upstream_id": 7}),
    ("upstreams", "u1", UPSTREAM),
    ("upstreams", "u2", {"nodes": {"127.0.0.1:80": 1, "[::1]:81": 2, "a.com": 0}}),
    ("upstreams", "u3", {"service_name": "s", "discovery_type": "dns", "discovery_args": {"group_name": "g"}}),
    (
        "consumers",
        "jack",
        {"username": "jack", "group_id": "g", "plugins": {"key-auth": {"key": encrypted("auth-one")}, **PLUGINS}},
    ),
    ("consumers", "jack/credentials/c1", {"name": "c", "plugins": {"basic-auth": {"username": "a", "password": "b"}}}),
    ("consumer_groups", "g", {"id": "g", "plugins": PLUGINS, "labels": {"a": "b"}}),
    ("global_rules", "1", {"id": "1", "plugins": PLUGINS, "create_time": 1}),
    ("plugin_configs", "p", {"id": "p", "name": "any", "plugins": PLUGINS}),
    (
        "plugin_metadata",
        "error-log-logger",
        {"id": "error-log-logger", "clickhouse": {"password": encrypted("hidden")}},
    ),
    ("plugins", "", [{"name": "key-auth"}, {"name": "mqtt-proxy", "stream": True}]),
    ("protos", "1", {"content": 'syntax = "proto3";', "name": "p"}),
    (
        "ssls",
        "1",
        {
            "cert": CERTIFICATE,
            "key": encrypted(KEY),
            "snis": ["*.Example.com", "b.com."],
            "certs": [CERTIFICATE],
            "keys": [KEY],
            "client": {"ca": CERTIFICATE, "depth": 2, "skip_mtls_uri_regex": ["^/open"]},
            "ssl_protocols": ["TLSv1.2", "TLSv1.3"],
            "status": 1,
        },
    ),
    (
        "stream_routes",
        "1",
        {
            "remote_addr": "10.0.0.0/8",
            "server_addr": "::1",
            "server_port": 9000,
            "sni": "A.com",
            "upstream": {"scheme": "tcp", **NODES},
            "plugins": {"ip-restriction": {"whitelist": ["10.0.0.0/8"]}},
            "protocol": {"name": "redis", "superior_id": 2, "conf": {"a": 1}, "logger": [{"name": "syslog"}]},
        },
    ),
    ("secrets", "vault/1", {"id": "vault/1", "uri": "http://v", "prefix": "kv/apisix", "token": "$env://VAULT"}),
    ("secrets", "aws/1", {"access_key_id": "a", "secret_access_key": "b"}),
    ("secrets", "gcp/1", {"auth_config": {"client_email": "a", "private_key": "b", "project_id": "c"}}),
]
"""Directory, id and value: together they hold every kind and nearly every field."""
