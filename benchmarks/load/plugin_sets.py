"""Sets of plugins that the route of a scenario has, and what nginx is told instead, as far as it can be told that."""

import json
from dataclasses import dataclass

KEY = "a-key-of-thirty-two-characters-0"


@dataclass(frozen=True, slots=True)
class PluginSet:
    """What is configured: the plugins as JSON, other records, and blocks of nginx.conf."""

    name: str
    plugins: str
    records: tuple[tuple[str, str], ...] = ()
    nginx_http: str = ""
    nginx_location: str = ""


NO_PLUGINS = PluginSet("none", "{}")

_KEY_AUTH = {"key-auth": {"hide_credentials": True}}
_CORS = {"cors": {"allow_origins": "https://www.example.com"}}
_LIMIT = {"limit-count": {"count": 100_000_000, "time_window": 3600, "key": "remote_addr"}}
_CONSUMER = (("consumers/jack", json.dumps({"username": "jack", "plugins": {"key-auth": {"key": KEY}}})),)

_NGINX_KEYS = f"""
    map $http_apikey $consumer {{ default ""; "{KEY}" jack; }}
"""
_NGINX_KEY_AUTH = """
        if ($consumer = "") { return 401; }
        proxy_set_header X-Consumer-Username $consumer;
        proxy_set_header apikey "";
"""
_NGINX_CORS = """
        add_header Access-Control-Allow-Origin https://www.example.com;
        add_header Access-Control-Allow-Methods "*";
        add_header Access-Control-Max-Age 5;
        add_header Access-Control-Allow-Headers "*";
        add_header Vary Origin;
"""
_NGINX_LIMITS = """
    limit_req_zone $binary_remote_addr zone=all:1m rate=1000000r/s;
"""
_NGINX_LIMIT = """
        limit_req zone=all burst=1000000 nodelay;
        add_header X-RateLimit-Limit 100000000;
        add_header X-RateLimit-Remaining 100000000;
        add_header X-RateLimit-Reset 3600;
"""

AUTH_AND_CORS = PluginSet(
    "key-auth-cors", json.dumps({**_KEY_AUTH, **_CORS}), _CONSUMER, _NGINX_KEYS, _NGINX_KEY_AUTH + _NGINX_CORS
)
# nginx counts requests for stub_status always; by route, status and latency it does not.
TWO = PluginSet("two", json.dumps({**_LIMIT, "prometheus": {}}), (), _NGINX_LIMITS, _NGINX_LIMIT)
SIX = PluginSet(
    "six",
    json.dumps(
        {
            **_KEY_AUTH,
            **_LIMIT,
            **_CORS,
            "prometheus": {},
            "proxy-rewrite": {"regex_uri": ["^/(.*)$", "/v1/$1"], "headers": {"set": {"X-Stage": "benchmark"}}},
            "response-rewrite": {"headers": {"set": {"X-Served-By": "gateway"}, "remove": ["Server"]}},
        }
    ),
    _CONSUMER,
    _NGINX_KEYS + _NGINX_LIMITS,
    _NGINX_KEY_AUTH
    + _NGINX_CORS
    + _NGINX_LIMIT
    + """
        rewrite ^/(.*)$ /v1/$1 break;
        proxy_set_header X-Stage benchmark;
        add_header X-Served-By gateway;
""",
)
