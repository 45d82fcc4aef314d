"""acl: who may use a route, by the labels of the consumer.

Fields: ``allow_labels`` and ``deny_labels``, at least one of them: by label the values that are let in, or kept out.
One value of one label is enough; who is to be kept out is, also when another label lets them in. ``rejected_code``
(403, from 200 on), ``rejected_msg``. Values of a label may be a list: written with commas, or as a JSON array.

For users that an authenticating plugin has found elsewhere than among the consumers (it keeps what is known of them in
``exchange.run`` by the key ``EXTERNAL_USER``): ``external_user_label_field`` (``groups``), a member or a JSONPath;
``external_user_label_field_key``, the label for which that stands, by default the field itself;
``external_user_label_field_parser`` (``segmented_text``, ``json``, ``table``; by default what it looks like) and
``external_user_label_field_separator``, a regular expression that ``segmented_text`` demands.

Answers ``rejected_code`` with ``{"message":"The consumer is forbidden."}`` or ``rejected_msg`` in its place; 401
``Missing authentication.`` when there is neither consumer nor external user.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import regex
from msgspec import Meta

from config_sync.errors import InvalidResource
from config_sync.schema.regexes import SEARCH_TIMEOUT, check_regex
from worker.plugins.answer import Answer, message
from worker.plugins.base import Plugin, Scope

if TYPE_CHECKING:
    from worker.exchange import Exchange

EXTERNAL_USER = "external_user"

Values = Annotated[tuple[str, ...], Meta(min_length=1)]
Labels = dict[str, Values]
Split = Callable[[str], list[str]]


class AclConfig(msgspec.Struct):
    """Which labels."""

    allow_labels: Labels | None = None
    deny_labels: Labels | None = None
    rejected_code: Annotated[int, Meta(ge=200, le=999)] = 403
    rejected_msg: str | None = None
    external_user_label_field: Annotated[str, Meta(min_length=1)] = "groups"
    external_user_label_field_key: str | None = None
    external_user_label_field_parser: Literal["segmented_text", "json", "table"] | None = None
    external_user_label_field_separator: str | None = None


class Acl(Plugin[AclConfig]):
    """Looks at labels."""

    name = "acl"
    priority = 2410
    Config = AclConfig

    def __init__(self, config: AclConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._allowed = _sets(config.allow_labels)
        self._denied = _sets(config.deny_labels) or {}
        told = "The consumer is forbidden." if config.rejected_msg is None else config.rejected_msg
        self._forbidden = message(config.rejected_code, told)
        self._field = _finder(config.external_user_label_field)
        self._label = config.external_user_label_field_key or config.external_user_label_field
        separator = config.external_user_label_field_separator
        self._split = _by_commas if separator is None else _splitter(separator)

    @classmethod
    def check(cls, config: AclConfig) -> None:
        """Demand labels, and a separator that can be used."""
        if not config.allow_labels and not config.deny_labels:
            raise InvalidResource("$", "one of allow_labels and deny_labels is required")
        separator = config.external_user_label_field_separator
        if separator is not None:
            check_regex(separator, "$.external_user_label_field_separator")
        elif config.external_user_label_field_parser == "segmented_text":
            raise InvalidResource("$.external_user_label_field_separator", "is required for segmented_text")
        if config.external_user_label_field.startswith("$"):
            _compiled(config.external_user_label_field)

    def access(self, exchange: "Exchange") -> Answer | None:
        """Refuse whom the labels keep out, or do not let in."""
        run = exchange.run
        assert run is not None  # noqa: S101 - plugins run in one
        if run.consumer is not None:
            labels = {name: values_of(value) for name, value in run.consumer.labels.items()}
        else:
            user = run.kept(EXTERNAL_USER)
            if user is None:
                return message(401, "Missing authentication.")
            labels = {self._label: self._values_of_user(user)}
        if _has_any(labels, self._denied):
            return self._forbidden
        return None if self._allowed is None or _has_any(labels, self._allowed) else self._forbidden

    def _values_of_user(self, user: Any) -> list[str]:
        found: list[str] = []
        for value in self._field(user):
            found += values_of(value, self.config.external_user_label_field_parser, self._split)
        return found


def _sets(labels: Labels | None) -> dict[str, frozenset[str]] | None:
    return {name: frozenset(values) for name, values in labels.items()} if labels else None


def _has_any(labels: Mapping[str, list[str]], wanted: Mapping[str, frozenset[str]]) -> bool:
    return any(not values.isdisjoint(labels.get(name, ())) for name, values in wanted.items())


def _by_commas(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def values_of(value: Any, parser: str | None = None, split: Split = _by_commas) -> list[str]:
    """Return what a label says: a list, a JSON array, or a text with separators; nothing when the parser fits not."""
    if isinstance(value, list | tuple):
        return [str(item) for item in value] if parser in (None, "table") else []
    if not isinstance(value, str) or parser == "table":
        return []
    if parser == "json" or (parser is None and value.startswith("[")):
        try:
            return [str(item) for item in msgspec.json.decode(value, type=list[Any])]
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            if parser == "json":
                return []
    return split(value)


def _splitter(separator: str) -> Split:
    pattern = regex.compile(separator, regex.ASCII)

    def split(text: str) -> list[str]:
        try:
            return [part.strip() for part in pattern.split(text, timeout=SEARCH_TIMEOUT) if part is not None]
        except TimeoutError:
            return []  # nobody is let in by it

    return split


def _finder(field: str) -> Callable[[Any], list[Any]]:
    """Return what finds a field of a user."""
    if field.startswith("$"):
        path = _compiled(field)
        return lambda user: list(path.findall(user))
    return lambda user: [user[field]] if isinstance(user, dict) and field in user else []


def _compiled(path: str) -> Any:
    import jsonpath

    try:
        return jsonpath.compile(path)
    except jsonpath.JSONPathError as error:
        raise InvalidResource("$.external_user_label_field", f"is no JSONPath: {str(error).splitlines()[0]}") from error
