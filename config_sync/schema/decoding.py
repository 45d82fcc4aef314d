"""From the bytes of a value to its typed resource.

There are two ways. The strict one decodes the bytes into the struct at once; nearly all values take it. What it does
not take goes the lenient one: the value is decoded freely and walked beside the struct's description, which reads
``[]`` as ``{}`` and the other way round (Lua cannot tell them apart), ``1.0`` as 1, integer ids as text, drops unknown
fields with a warning, so that a newer tool does not take resources away, and refuses ``null``; then it is converted.
"""

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema.fields import Resource

R = TypeVar("R", bound=Resource)

_MOST_WARNINGS = 20
_LONGEST_NAME = 80  # characters of a name in a warning
_OBJECTS = (inspect.StructType, inspect.DictType)
_ARRAYS = (inspect.VarTupleType, inspect.ListType)


class Context:
    """What the checks of one value need besides the value: the keys, and where warnings go."""

    __slots__ = ("keyring", "warnings")

    def __init__(self, keyring: Keyring | None) -> None:
        self.keyring = keyring
        self.warnings: list[str] = []


class Kind(Generic[R]):
    """A kind of resource: its struct, and the checks a type cannot say."""

    def __init__(self, struct: type[R], check: Callable[[R, Context], None]) -> None:
        self._struct = struct
        self._check = check
        self._strict = msgspec.json.Decoder(struct)
        self._description = inspect.type_info(struct)

    def decode(self, id_: str, raw: bytes, keyring: Keyring | None) -> tuple[R, list[str]]:
        """Decode one value.

        Returns:
            The resource, with the id of its key, and warnings.

        Raises:
            InvalidResource: with the JSON path of the first fault.
        """
        context = Context(keyring)
        try:
            resource = self._typed(raw, context)
            self._check(resource, context)
        except RecursionError as error:
            raise InvalidResource("$", "nested too deeply") from error
        resource.id = id_
        if len(context.warnings) > _MOST_WARNINGS:
            context.warnings[_MOST_WARNINGS:] = [f"and {len(context.warnings) - _MOST_WARNINGS} more"]
        return resource, context.warnings

    def _typed(self, raw: bytes, context: Context) -> R:
        if b"null" not in raw:  # a type with a default would take it for absence
            try:
                return self._strict.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError):
                pass
        return self.convert(parsed(raw), context)

    def convert(self, value: Any, context: Context) -> R:
        """Convert a decoded value, leniently; the value is changed."""
        if not isinstance(value, dict):
            raise InvalidResource("$", "must be an object")
        try:
            return msgspec.convert(relaxed(value, self._description, "$", context.warnings), self._struct)
        except msgspec.ValidationError as error:
            raise fault_of(error, self._description) from error


def fault_of(error: msgspec.ValidationError, description: inspect.Type) -> InvalidResource:
    """Say what msgspec complains of, and where; and what may stand there when only some texts may."""
    reason, _, path = str(error).rpartition(" - at `")
    path = path.rstrip("`") if reason else "$"
    reason = reason or str(error)
    if reason.startswith("Invalid enum value"):
        reason += f"; must be one of {', '.join(map(str, _choices(description, path)))}"
    return InvalidResource(path, reason)


def _choices(type_: inspect.Type, path: str) -> tuple[Any, ...]:
    """Find the literals that may stand at a path."""
    for name in re.findall(r"\.(\w+)", path):
        type_ = _inner(type_)
        if isinstance(type_, inspect.StructType):
            type_ = next(field.type for field in type_.fields if field.encode_name == name)
    type_ = _inner(type_)
    return type_.values if isinstance(type_, inspect.LiteralType) else ()


def _inner(type_: inspect.Type) -> inspect.Type:
    """Look through unions and arrays at what they are made of."""
    while isinstance(type_, inspect.UnionType | inspect.VarTupleType):
        type_ = _member(type_, {}) if isinstance(type_, inspect.UnionType) else type_.item_type
    return type_


def parsed(raw: bytes) -> Any:
    """Decode JSON, whatever it holds; raises InvalidResource when it is none."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidResource("$", f"not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidResource("$", "nested too deeply") from error


def relaxed(value: Any, type_: inspect.Type, path: str, warnings: list[str]) -> Any:
    """Give a value the form its type demands where only the way of writing differs.

    Raises:
        InvalidResource: for ``null``.
    """
    if isinstance(type_, inspect.AnyType):
        return value
    if value is None:
        raise InvalidResource(path, "must not be null; leave it out")
    if isinstance(type_, inspect.UnionType):
        type_ = _member(type_, value)
    if isinstance(type_, inspect.Metadata):
        # The only mark there is: an id, which may be written as an integer.
        return _id(value)
    if isinstance(type_, inspect.StructType):
        return _relaxed_object({} if value == [] else value, type_, path, warnings)
    if isinstance(type_, inspect.DictType):
        return {} if value == [] else value
    if isinstance(type_, _ARRAYS):
        return _relaxed_array([] if value == {} else value, type_.item_type, path, warnings)
    if isinstance(type_, inspect.IntType | inspect.LiteralType):
        return _whole(value)
    return value


def _member(union: inspect.UnionType, value: Any) -> inspect.Type:
    """Choose the member of a union that a value is meant for."""
    members = [member for member in union.types if not isinstance(member, inspect.NoneType)]
    forms = _OBJECTS if isinstance(value, dict) else _ARRAYS
    others = _OBJECTS + _ARRAYS if value in ([], {}) else forms
    return next(
        (member for form in (forms, others) for member in members if isinstance(member, form)),
        members[0],
    )


def _relaxed_object(value: Any, type_: inspect.StructType, path: str, warnings: list[str]) -> Any:
    if not isinstance(value, dict):
        return value
    fields = {field.encode_name: field.type for field in type_.fields}
    known = {}
    for name, member in value.items():
        if name in fields:
            known[name] = relaxed(member, fields[name], f"{path}.{name}", warnings)
        else:
            warnings.append(f"{path}.{name[:_LONGEST_NAME]}: unknown field, ignored")
    return known


def _relaxed_array(value: Any, item_type: inspect.Type, path: str, warnings: list[str]) -> Any:
    if not isinstance(value, list) or isinstance(item_type, inspect.AnyType):
        return value
    return [relaxed(item, item_type, f"{path}[{at}]", warnings) for at, item in enumerate(value)]


def _id(value: Any) -> Any:
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if 1 <= value < 10**64 else value
    return value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
