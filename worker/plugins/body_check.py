"""Checks bodies against a JSON Schema; as a program, one body for a parent that must not stand still meanwhile.

The program reads a line with the job as JSON and then the body, and writes ``0`` and what is to be sent on, or ``1``
and what is wrong. It ends with its input, so it cannot outlive its parent.
"""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from worker.variables.request import parse_arguments
from worker.variables.values import text_of

NESTED = 64  # how deep defaults are looked for


class Invalid(Exception):
    """A body or header is not what the schema demands."""


class Job(msgspec.Struct):
    """What a program is asked to do."""

    schema: dict[str, Any]
    is_form: bool


class Schema:
    """A JSON Schema (draft 7), compiled."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Compile.

        Raises:
            ImportError: the library is missing.
            ValueError: it is no schema, or refers to another document.
        """
        from jsonschema_rs import Draft7Validator, ValidationError

        self._error: type[Exception] = ValidationError
        try:
            self._validate = Draft7Validator(schema, retriever=_refuse).validate
        except Exception as error:  # the library's errors have no common base
            raise ValueError(str(error).splitlines()[0]) from error
        self._fill = _filler(schema)

    def check(self, value: Any) -> None:
        """Put defaults in and validate; Invalid."""
        if self._fill is not None:
            self._fill(value)
        try:
            self._validate(value)
        except self._error as error:
            raise Invalid(getattr(error, "message", "") or str(error).splitlines()[0]) from error

    def checked(self, body: bytes, is_form: bool) -> bytes:
        """Return what is to be sent on for a body: a form as it is, JSON written anew; Invalid."""
        if is_form:
            self.check(parse_arguments(text_of(body)))
            return body
        try:
            value = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Invalid(f"the body is no JSON: {error}") from error
        self.check(value)
        return msgspec.json.encode(value)


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is another document")


def _filler(schema: Any, depth: int = 0) -> Callable[[Any], None] | None:
    """Compile what puts defaults of properties in where they are missing; None when there are none."""
    if not isinstance(schema, dict) or depth > NESTED:
        return None
    members = schema.get("properties")
    properties = members if isinstance(members, dict) else {}
    defaults = {
        name: msgspec.json.encode(member["default"])
        for name, member in properties.items()
        if isinstance(member, dict) and "default" in member
    }
    inner = {name: put for name, member in properties.items() if (put := _filler(member, depth + 1)) is not None}
    each = _filler(schema.get("items"), depth + 1)
    if not (defaults or inner or each):
        return None

    def fill(value: Any) -> None:
        if isinstance(value, dict):
            for name, default in defaults.items():
                if name not in value:
                    value[name] = msgspec.json.decode(default)
            for name, fill_member in inner.items():
                if name in value:
                    fill_member(value[name])
        elif isinstance(value, list) and each is not None:
            for item in value:
                each(item)

    return fill


def main() -> None:
    """Do one job."""
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    body = sys.stdin.buffer.read()
    try:
        answer = b"0" + Schema(job.schema).checked(body, job.is_form)
    except Invalid as error:
        answer = b"1" + str(error).encode("utf-8", "replace")
    sys.stdout.buffer.write(answer)


if __name__ == "__main__":
    main()
