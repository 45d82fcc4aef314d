"""APISIX's standalone format: all resources in one file (data-model.md section 17).

Below each plural name stands a list of objects, each with its ``id``. What a list holds becomes what etcd would hold:
a key below the prefix, as "routes/1", and JSON; so everything behind a provider is the same for both. The JSON is
canonical (compact, keys sorted), so that equal objects are equal bytes however the file is laid out, and it carries
the id that is in the key.

YAML must end with the line ``#END``: without it the file is taken for half-written. Text that begins with ``{`` is
JSON, whose last brace says the same.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import yaml

from config_sync.environment import MARK, VariableError, escaped, substituted
from config_sync.errors import StandaloneError
from config_sync.schema import DIRECTORIES
from config_sync.yaml_values import YamlValues

log = logging.getLogger("propylon.sync")

END = "#END"
_encode = msgspec.json.Encoder(order="sorted").encode
_decode_sections = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

Warn = Callable[[str], None]
Section = tuple[str, Iterator[tuple[Any, int]]]  # its name, and its items, each with its line or 0


def read_standalone(text: str, environment: Mapping[str, str]) -> dict[str, bytes]:
    """Read a file: key below the prefix -> canonical JSON; warnings are logged.

    Raises:
        StandaloneError: with line, section and position as far as they are known.
    """
    return dict(resources(text, environment, log.warning))


def resources(text: str, environment: Mapping[str, str], warn: Warn) -> Iterator[tuple[str, bytes]]:
    """Read a file resource by resource; what has come before an error must not be used.

    ``environment`` is where placeholders are replaced from; ``warn`` is told of sections that are not known.

    Raises:
        StandaloneError: with line, section and position as far as they are known.
    """
    variables = environment if MARK in text else None
    places: dict[str, str] = {}  # of keys
    for section, items in _sections(text, warn):
        if section == "plugins":
            yield section, _canonical(_prepared([item for item, _ in items], variables, section, 0), section, 0)
            continue
        for at, (item, line) in enumerate(items):
            place = f"{section}[{at}]"
            if not isinstance(item, dict):
                raise StandaloneError(f"{place}: must be an object", line)
            value = _prepared(item, variables, place, line)
            id_ = _id_of(section, value, at, place, line)
            key = f"{section}/{id_}"
            if key in places:
                raise StandaloneError(f"{place}: the id {id_!r} is that of {places[key]} too", line)
            places[key] = place
            yield key, _canonical(value, place, line)


def write_standalone(values: Mapping[str, bytes]) -> str:
    """Write what ``read_standalone`` reads: key below the prefix -> JSON.

    Keys that are no resources, as placeholders of directories and ``gen_id``, are left out.

    Raises:
        StandaloneError: a value is not JSON, or not of the kind that its key demands; with the key.
    """
    sections: dict[str, list[Any]] = {}
    for key in sorted(values):
        directory, slash, id_ = key.partition("/")
        if directory not in DIRECTORIES or (directory == "plugins") is bool(slash) or (slash and not id_):
            continue
        try:
            value: Any = msgspec.json.decode(values[key])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StandaloneError(f"{key}: is not JSON: {error}") from error
        if slash and isinstance(value, dict):
            sections.setdefault(directory, []).append(_with_id(directory, id_, value))
        elif not slash and isinstance(value, list):
            sections[directory] = value
        else:
            raise StandaloneError(f"{key}: must be {'an object' if slash else 'a list'}")
    ordered = {name: escaped(sections[name]) for name in DIRECTORIES if name in sections}
    return _dump(ordered) + END + "\n"


# reading


def _sections(text: str, warn: Warn) -> Iterator[Section]:
    body = text.rstrip()
    is_ended = body.rpartition("\n")[2].strip() == END
    if body.lstrip("\ufeff \t\r\n").startswith("{"):
        try:
            return _json_sections(body.removesuffix(END) if is_ended else body, warn)
        except StandaloneError:
            if not is_ended:  # otherwise it may be YAML that is written in braces
                raise
    if not is_ended:
        raise StandaloneError(f"the last line must be {END}; without it the file is taken for half-written")
    return _yaml_sections(text, warn)


def _yaml_sections(text: str, warn: Warn) -> Iterator[Section]:
    values = YamlValues(text)
    for name, line in values.sections():
        if name not in DIRECTORIES:
            warn(_unknown(name, line))
            values.value()
            continue
        try:
            items = values.items()
        except StandaloneError as error:
            raise StandaloneError(f"{name}: {error.reason}", error.line) from error
        if items is not None:
            yield name, _with_lines(items, values)


def _with_lines(items: Iterator[Any], values: YamlValues) -> Iterator[tuple[Any, int]]:
    try:
        for item in items:
            yield item, values.line
    except RecursionError as error:
        raise StandaloneError("nested too deeply", values.line) from error


def _json_sections(text: str, warn: Warn) -> Iterator[Section]:
    try:
        raws = _decode_sections(text.removeprefix("\ufeff"))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise StandaloneError(f"is no JSON: {error}") from error
    return _json_items(raws, warn)


def _json_items(raws: Mapping[str, msgspec.Raw], warn: Warn) -> Iterator[Section]:
    for name, raw in raws.items():
        if name not in DIRECTORIES:
            warn(_unknown(name, 0))
            continue
        try:
            items = _decode_items(raw)
        except msgspec.ValidationError as error:
            if msgspec.json.decode(raw) in (None, {}):
                continue
            raise StandaloneError(f"{name}: must be a list") from error
        yield name, ((msgspec.json.decode(item), 0) for item in items)


def _unknown(name: str, line: int) -> str:
    return f"{f'line {line}: ' if line else ''}{name}: unknown section, ignored"


def _prepared(value: Any, environment: Mapping[str, str] | None, place: str, line: int) -> Any:
    if environment is None:
        return value
    try:
        return substituted(value, environment, place)
    except VariableError as error:
        raise StandaloneError(str(error), line) from error


def _id_of(section: str, value: dict[str, Any], at: int, place: str, line: int) -> str:
    """Find the id of an item, and put it in when it is not there."""
    name = "id"
    if section == "consumers" and "username" in value and "/" not in str(value.get("id", "")):
        name = "username"  # that is a consumer's identity; a credential has its long id
    id_ = value.setdefault(name, f"arr_{at + 1}")
    if isinstance(id_, float) and id_.is_integer():
        id_ = value[name] = int(id_)
    if isinstance(id_, bool) or not isinstance(id_, str | int) or id_ == "":
        raise StandaloneError(f"{place}.{name}: must be text or an integer", line)
    return str(id_)


def _canonical(value: Any, place: str, line: int) -> bytes:
    try:
        return _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StandaloneError(f"{place}: cannot be written as JSON: {error}", line) from error


# writing


def _with_id(directory: str, id_: str, value: dict[str, Any]) -> dict[str, Any]:
    """Put in the id of the key, first, as ``_id_of`` looks for it."""
    name = "id"
    if directory == "consumers" and "/" not in id_ and ("username" in value or value.get("id") != id_):
        name = "username"
        if "/" in str(value.get("id", "")):
            del value["id"]
    written = value.pop(name, id_)
    return {name: written if isinstance(written, int) and str(written) == id_ else id_, **value}


class _Dumper(_DUMPER):  # type: ignore[misc] # chosen at run time
    """Writes text of several lines, as certificates are, as it is."""

    def ignore_aliases(self, data: Any) -> bool:
        """Repeat what is equal: anchors are for people."""
        return True


def _represent_str(dumper: _Dumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_str)


def _dump(sections: Mapping[str, Iterable[Any]]) -> str:
    if not sections:
        return ""
    text: str = yaml.dump(
        dict(sections), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=4096
    )
    return text
