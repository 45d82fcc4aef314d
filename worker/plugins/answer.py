"""Answer: what a plugin answers a request with, instead of an upstream."""

from collections.abc import Iterable
from typing import Any

import msgspec

Fields = Iterable[tuple[bytes, bytes]]


class Answer:
    """Status, body and fields; without a body, an error has the gateway's page for its status."""

    __slots__ = ("body", "content_type", "fields", "status")

    def __init__(self, status: int, body: bytes | None = None, fields: Fields = (), content_type: bytes = b"") -> None:
        self.status = status
        self.body = body
        self.fields = tuple(fields)
        self.content_type = content_type  # empty: by the path's extension, else plain text (routing.md section 10)

    def __repr__(self) -> str:
        """Show the status."""
        return f"<Answer {self.status}>"


def json_answer(status: int, value: Any, fields: Fields = (), content_type: bytes = b"") -> Answer:
    """Answer with JSON and a newline, as all plugins do (plugins.md)."""
    return Answer(status, msgspec.json.encode(value) + b"\n", fields, content_type)


def message(status: int, text: str, fields: Fields = ()) -> Answer:
    """Answer with ``{"message": text}``."""
    return json_answer(status, {"message": text}, fields)


def error_message(status: int, text: str, fields: Fields = ()) -> Answer:
    """Answer with ``{"error_msg": text}``."""
    return json_answer(status, {"error_msg": text}, fields)
