"""Where the configurations of plugins hold expressions besides ``_meta.filter`` (routing.md section 6)."""

from collections.abc import Iterator, Mapping
from typing import Any

from config_sync.schema.expressions import check_expression

EACH = "[]"
"""In a path: every element of an array."""

_BODIES = ("include_req_body_expr", "include_resp_body_expr")
_LOGGERS = (
    *("clickhouse-logger", "elasticsearch-logger", "file-logger", "google-cloud-logging", "http-logger"),
    *("kafka-logger", "loggly", "loki-logger", "rocketmq-logger", "skywalking-logger", "sls-logger"),
    *("splunk-hec-logging", "syslog", "tcp-logger", "tencent-cloud-cls", "udp-logger", "lago"),
)

PATHS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    **{name: tuple((body,) for body in _BODIES) for name in _LOGGERS},
    "file-logger": (*((body,) for body in _BODIES), ("match", EACH)),
    "fault-injection": (("abort", "vars", EACH), ("delay", "vars", EACH)),
    "response-rewrite": (("vars",),),
    "traffic-label": (("rules", EACH, "match"),),
    "traffic-split": (("rules", EACH, "match", EACH, "vars"),),
    "workflow": (("rules", EACH, "case"),),
}
"""By plugin, the paths of its expressions."""


def check_plugin_expressions(name: str, config: Mapping[str, Any], path: str) -> None:
    """Check the expressions of a plugin that stands at ``path``.

    Raises:
        InvalidResource: with the path of the part that is not understood.
    """
    for members in PATHS.get(name, ()):
        for expression, place in _found(config, members, path):
            check_expression(expression, place)


def _found(value: Any, members: tuple[str, ...], path: str) -> Iterator[tuple[Any, str]]:
    if not members:
        yield value, path
        return
    member, *rest = members
    if member == EACH:
        for at, item in enumerate(value if isinstance(value, list) else ()):
            yield from _found(item, tuple(rest), f"{path}[{at}]")
    elif isinstance(value, dict) and member in value:
        yield from _found(value[member], tuple(rest), f"{path}.{member}")
