"""What several plugins check of their configuration, and compile of it."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from config_sync.errors import InvalidResource
from config_sync.schema.regexes import Regex, check_regex
from worker.fields import field_line
from worker.variables.values import text_of

Found = Callable[[str], bool]


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
    """Check that a name and a value can be sent as a field; InvalidResource."""
    try:
        field_line(name.encode(), value.encode())
    except ValueError as error:
        raise InvalidResource(path, str(error)) from error


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


def header_text(value: bytes | None) -> str | None:
    """Return a field's value as text, None when there is none."""
    return None if value is None else text_of(value)
