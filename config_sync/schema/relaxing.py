"""Values that differ from what their type demands only in the way of writing.

``[]`` is read as ``{}`` and the other way round (Lua cannot tell them apart), ``1.0`` as 1, an integer id as text;
fields that are not known are dropped with a warning, so that a newer tool does not take resources away; ``null`` is
refused. What is to be done is worked out once for a type, from msgspec's description of it.
"""

from collections.abc import Callable
from typing import Any

from msgspec import inspect

from config_sync.errors import InvalidResource

Relax = Callable[[Any, str, list[str]], Any]
"""Takes a value, its path and the list of warnings; returns the value in the form of its type."""

_LONGEST_NAME = 80  # characters of a name in a warning
_LARGEST_ID = 10**64  # has more digits than an id may have
_OBJECTS = (inspect.StructType, inspect.DictType)
_ARRAYS = (inspect.VarTupleType, inspect.ListType)


def relax_for(type_: inspect.Type) -> Relax | None:
    """Return what relaxes values of a type; None when they are taken as they are."""
    if isinstance(type_, inspect.UnionType):
        return _union(type_)
    if isinstance(type_, inspect.Metadata):
        return _id  # the only mark there is: an id, which may be written as an integer
    if isinstance(type_, inspect.StructType):
        return _struct(type_)
    if isinstance(type_, inspect.DictType):
        return _object
    if isinstance(type_, _ARRAYS):
        return _array(type_.item_type)
    if isinstance(type_, inspect.IntType):
        return _whole
    return None


def inner_type(type_: inspect.Type) -> inspect.Type:
    """Look through unions and arrays at what they are made of."""
    while isinstance(type_, inspect.UnionType | inspect.VarTupleType):
        type_ = _members(type_)[0] if isinstance(type_, inspect.UnionType) else type_.item_type
    return type_


def _members(union: inspect.UnionType) -> list[inspect.Type]:
    return [member for member in union.types if not isinstance(member, inspect.NoneType)]


def _union(union: inspect.UnionType) -> Relax | None:
    members = _members(union)
    if len(members) == 1:
        return relax_for(members[0])
    of_objects = next((relax_for(member) for member in members if isinstance(member, _OBJECTS)), None)
    of_arrays = next((relax_for(member) for member in members if isinstance(member, _ARRAYS)), None)

    def relax(value: Any, path: str, warnings: list[str]) -> Any:
        if isinstance(value, dict):
            chosen = of_objects or of_arrays
        elif isinstance(value, list):
            chosen = of_arrays or of_objects
        else:
            return value
        return value if chosen is None else chosen(value, path, warnings)

    return relax


def _struct(type_: inspect.StructType) -> Relax:
    fields = {field.encode_name: relax_for(field.type) for field in type_.fields}

    def relax(value: Any, path: str, warnings: list[str]) -> Any:
        if not isinstance(value, dict):
            return {} if value == [] else value
        known = {}
        for name, member in value.items():
            if name not in fields:
                warnings.append(f"{path}.{name[:_LONGEST_NAME]}: unknown field, ignored")
                continue
            if member is None:
                raise InvalidResource(f"{path}.{name}", "must not be null; leave it out")
            relax_field = fields[name]
            known[name] = member if relax_field is None else relax_field(member, f"{path}.{name}", warnings)
        return known

    return relax


def _array(item_type: inspect.Type) -> Relax:
    relax_item = relax_for(item_type)

    def relax(value: Any, path: str, warnings: list[str]) -> Any:
        if not isinstance(value, list):
            return [] if value == {} else value
        if relax_item is None:
            return value
        return [relax_item(item, f"{path}[{at}]", warnings) for at, item in enumerate(value)]

    return relax


def _object(value: Any, path: str, warnings: list[str]) -> Any:
    return {} if value == [] else value


def _whole(value: Any, path: str, warnings: list[str]) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _id(value: Any, path: str, warnings: list[str]) -> Any:
    value = _whole(value, path, warnings)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value < _LARGEST_ID:
        return str(value)
    return value
