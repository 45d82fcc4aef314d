"""What several plugins check of their configuration, and compile of it."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from config_sync.errors import InvalidResource
from config_sync.schema.regexes import Regex, check_regex
from worker.fields import field_line

Found = Callable[[str], bool]

FRAMING = frozenset(("connection", "content-length", "keep-alive", "trailer", "transfer-encoding", "upgrade"))
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def check_exactly_one(config: msgspec.Struct, *names: str) -> None:
    """Check that one of these fields is given, and no other; InvalidResource."""
    given = [name for name in names if getattr(config, name) is not None]
    if len(given) != 1:
        raise InvalidResource(f"$.{given[-1]}" if given else "$", f"exactly one of {', '.join(names)} must be given")


def check_regexes(patterns: Sequence[Any] | None, path: str) -> None:
    """Check that all are regular expressions; InvalidResource with the path of the first that is none."""
    for at, pattern in enumerate(patterns or ()):
        check_regex(pattern, f"{path}[{at}]")


def check_field(name: str, value: str, path: str) -> None:
    """Check that a name and a value can be sent as a field, and frame no message; InvalidResource."""
    if name.lower() in FRAMING:
        raise InvalidResource(path, f"field {name} frames the message and cannot be set")
    try:
        field_line(name.encode(), value.encode())
    except ValueError as error:
        raise InvalidResource(path, str(error)) from error


def field_value(text: str) -> bytes:
    """Return what can be sent of a text as the value of a field: control characters become spaces."""
    return _CONTROL.sub(b" ", text.encode("utf-8", "surrogateescape"))


def any_of(patterns: Sequence[str], is_case_ignored: bool = False, when_late: bool = False) -> Found:
    """Compile what tells whether one of the patterns is found in a text.

    A search that takes too long (``Regex.matches``) counts as ``when_late`` says.
    """
    searches = [Regex(pattern, is_case_ignored).matches for pattern in patterns]

    def found(text: str) -> bool:
        for matches in searches:
            try:
                if matches(text):
                    return True
            except TimeoutError:
                if when_late:
                    return True
        return False

    return found
