"""References to what is kept elsewhere: ``$env://NAME[/member]``, ``$secret://manager/id/name[/key]``.

A reference stands where a text of the configuration would stand (data-model.md section 12). Environment variables are
read here; other managers are registered with a ``Resolver`` under the name that follows ``$secret://``.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

_ENVIRONMENT = "$env://"
_SECRET = "$secret://"
# The longest of both, so that no long text is copied to look at its start.
_LONGEST = len(_SECRET)

Place = tuple[str, str, str]
"""Manager, id and name of a secret, which may hold the values of several keys."""


class SecretReference(NamedTuple):
    """``$secret://manager/id/name/key`` taken apart; ``name`` may hold slashes, ``key`` may be empty."""

    manager: str
    id: str
    name: str
    key: str

    @property
    def place(self) -> Place:
        """Where it leads, whatever the key."""
        return self.manager, self.id, self.name


class SecretManager(Protocol):
    """Where secrets of one manager come from: Vault, a cloud's store."""

    def secret(self, reference: SecretReference) -> str | None:
        """Return what it holds for a reference, at once.

        It is called in the event loop and must not wait: a manager that asks over the network answers from memory,
        fetches and refreshes in the background, and returns None for what it does not have (yet). The settings it
        needs are the resource ``secrets/<manager>/<id>``.
        """


def is_reference(text: str) -> bool:
    """Tell whether a text is a reference; the prefixes are case-insensitive."""
    return text.startswith("$") and text[:_LONGEST].lower().startswith((_ENVIRONMENT, _SECRET))


def parse(reference: str) -> SecretReference | None:
    """Take a ``$secret://`` reference apart; None when it is none, or a part is missing."""
    if reference[: len(_SECRET)].lower() != _SECRET:
        return None
    manager, _, rest = reference[len(_SECRET) :].partition("/")
    id_, _, rest = rest.partition("/")
    name, slash, key = rest.rpartition("/")
    parts = SecretReference(manager, id_, name, key) if slash else SecretReference(manager, id_, rest, "")
    return parts if manager and id_ and parts.name and (parts.key or not slash) else None


def places_in(value: Any) -> frozenset[Place]:
    """Return where the references to secrets in a value lead."""
    return frozenset(_places_in(value))


def _places_in(value: Any) -> Iterator[Place]:
    if isinstance(value, str):
        secret = parse(value) if is_reference(value) else None
        if secret is not None:
            yield secret.place
    elif isinstance(value, dict):
        for member in value.values():
            yield from _places_in(member)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _places_in(item)


class Resolver:
    """Finds what references stand for."""

    def __init__(
        self, environment: Mapping[str, str] | None = None, managers: Mapping[str, SecretManager] | None = None
    ) -> None:
        """Read variables from ``environment`` (None: that of the process)."""
        self._environment = os.environ if environment is None else environment
        self._managers = dict(managers or {})

    def register(self, name: str, manager: SecretManager) -> None:
        """Ask a manager for ``$secret://<name>/…`` from now on."""
        self._managers[name] = manager

    def is_managed(self, reference: str) -> bool:
        """Tell whether somebody is asked for a reference who may not know yet, and says so himself when nothing is
        there.
        """
        secret = parse(reference)
        return secret is not None and secret.manager in self._managers

    def resolve(self, reference: str) -> str | None:
        """Return what a reference stands for.

        None: it is no reference, or what it names is not there. Who asks decides what that means: a consumer's
        credential is left out, elsewhere the text stays as it is.
        """
        if not is_reference(reference):
            return None
        secret = parse(reference)
        if secret is not None:
            manager = self._managers.get(secret.manager)
            return manager.secret(secret) if manager is not None else None
        if reference[: len(_ENVIRONMENT)].lower() == _ENVIRONMENT:
            name, _, member = reference[len(_ENVIRONMENT) :].partition("/")
            text = self._environment.get(name)
            return member_of(text, member) if text is not None and member else text
        return None


def member_of(value: Any, name: str) -> str | None:
    """Take a member of an object, or of its JSON; numbers and booleans as they are written in JSON."""
    if isinstance(value, str | bytes):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
    member = value.get(name) if isinstance(value, dict) else None
    if isinstance(member, str):
        return member
    if isinstance(member, int | float):
        return msgspec.json.encode(member).decode()
    return None
