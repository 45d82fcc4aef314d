"""Answers instead of the upstream, with an example or with data made up from a schema.

    response_example    the body, which may hold variables; or else
    response_schema     a JSON Schema: ``example`` (or ``const``, ``enum``) where there is one, random values elsewhere
    response_status, content_type, response_headers
    delay               seconds before the answer
    with_mock_header    whether ``x-mock-by: APISIX/<version>`` is sent

With a schema the content type says how the data are written: JSON, XML below an element ``data``, or plain text, which
is JSON, too. Of a schema ``type``, ``properties`` and ``items`` are looked at; arrays have one to three items, a
fourth one inside of others one item.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from random import choice, randint, random
from typing import TYPE_CHECKING, Annotated, Any
from xml.sax.saxutils import escape

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import check_field, field_value
from worker.variables import Template
from worker.variables.values import shown

if TYPE_CHECKING:
    from worker.exchange import Exchange

MOCKED_BY = b"APISIX/3.18.0"  # whose answers these are like
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
DEEPEST = 32
XML = frozenset(("application/xml", "text/xml"))
CONTENT_TYPES = XML | {"application/json", "text/plain", "text/html"}
_NOT_IN_NAME = re.compile(r"[^\w.-]")

Make = Callable[[], Any]
Write = Callable[[Any], str]


class MockingConfig(msgspec.Struct):
    """What is answered."""

    response_example: str | None = None
    response_schema: dict[str, Any] | None = None
    response_status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    content_type: str = "application/json;charset=utf8"
    delay: Annotated[int, msgspec.Meta(ge=0)] = 0
    with_mock_header: bool = True
    response_headers: dict[str, str | int | float] = {}


class Mocking(Plugin[MockingConfig]):
    """Answers everything."""

    name = "mocking"
    priority = 10900
    Config = MockingConfig

    def __init__(self, config: MockingConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._example = Template(config.response_example) if config.response_example is not None else None
        self._make = maker(config.response_schema or {}, "$.response_schema")
        self._write: Write = _as_xml if _kind(config.content_type) in XML else _as_json
        self._content_type = config.content_type.encode()
        self._fields = [(name.encode(), field_value(str(value))) for name, value in config.response_headers.items()]
        if config.with_mock_header:
            self._fields.append((b"x-mock-by", MOCKED_BY))
        if config.delay:
            self.access = self._late_access  # type: ignore[assignment,method-assign]  # a Task for those alone

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that there is something to answer, and that it can be sent."""
        if config.response_example is None:
            if config.response_schema is None:
                raise InvalidResource("$", "response_example or response_schema must be given")
            maker(config.response_schema, "$.response_schema")
        if _kind(config.content_type) not in CONTENT_TYPES:
            raise InvalidResource("$.content_type", f"must be one of {', '.join(sorted(CONTENT_TYPES))}")
        check_field("Content-Type", config.content_type, "$.content_type")
        for name, value in config.response_headers.items():
            check_field(name, str(value), f"$.response_headers[{name!r}]")

    def access(self, exchange: "Exchange") -> Answer:
        """Answer."""
        text = self._example.render(exchange) if self._example is not None else self._write(self._make())
        body = text.encode("utf-8", "surrogateescape")
        return Answer(self.config.response_status, body, self._fields, self._content_type)

    async def _late_access(self, exchange: "Exchange") -> Answer:
        answer = Mocking.access(self, exchange)
        await asyncio.sleep(self.config.delay)
        return answer


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def maker(schema: Any, path: str, depth: int = 0, arrays: int = 0) -> Make:
    """Compile what makes up values for a schema.

    Raises:
        InvalidResource: it is no schema, of a type that JSON does not have, or nested too deeply.
    """
    if not isinstance(schema, dict):
        raise InvalidResource(path, "must be an object")
    if depth > DEEPEST:
        raise InvalidResource(path, f"nested more than {DEEPEST} deep")
    for name in ("example", "const"):
        if name in schema:
            value = schema[name]
            return lambda: value
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        values = schema["enum"]
        return lambda: choice(values)  # noqa: S311 - no secret
    kind = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else "string")
    if kind == "object":
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise InvalidResource(f"{path}.properties", "must be an object")
        makers = {
            name: maker(member, f"{path}.properties[{name!r}]", depth + 1, arrays)
            for name, member in properties.items()
        }
        return lambda: {name: make() for name, make in makers.items()}
    if kind == "array":
        make = maker(schema.get("items", {}), f"{path}.items", depth + 1, arrays + 1)
        most = 3 if arrays < 3 else 1
        return lambda: [make() for _ in range(randint(1, most))]  # noqa: S311 - no secret
    if not isinstance(kind, str) or kind not in SIMPLE:
        raise InvalidResource(f"{path}.type", f"must be one of array, object, {', '.join(SIMPLE)}")
    return SIMPLE[kind]


def _text() -> str:
    return "".join([choice(LETTERS) for _ in range(randint(1, 10))])  # noqa: S311 - no secret


SIMPLE: Mapping[str, Make] = {
    "string": _text,
    "number": lambda: round(random() * 10_000, 4),  # noqa: S311 - no secret
    "integer": lambda: randint(1, 10_000),  # noqa: S311 - no secret
    "boolean": lambda: random() < 0.5,  # noqa: S311 - no secret
    "null": lambda: None,
}
"""By type, what makes up a value of it."""


def _as_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _as_xml(value: Any) -> str:
    return _element("data", value)


def _element(name: str, value: Any) -> str:
    if isinstance(value, list):
        return "".join([_element(name, item) for item in value])
    if isinstance(value, dict):
        content = "".join([_element(_NOT_IN_NAME.sub("_", member), item) for member, item in value.items()])
    else:
        content = "" if value is None else escape(shown(value))
    return f"<{name}>{content}</{name}>"
