"""From the bytes of a value to its typed resource.

There are two ways. The strict one decodes the bytes into the struct at once; nearly all values take it. What it does
not take goes the lenient one: it is decoded freely, relaxed (``relaxing.py``), and converted.
"""

import re
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import inspect

from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema.fields import Resource
from config_sync.schema.relaxing import inner_type, relax_for

R = TypeVar("R", bound=Resource)
T = TypeVar("T")


class PluginCheck(Protocol):
    """Knows the plugins there are."""

    def __call__(self, name: str, config: dict[str, Any], path: str, is_credential: bool, warnings: list[str]) -> None:
        """Check a plugin's configuration, which stands at a JSON path.

        Raises:
            InvalidResource: the plugin cannot work with it.
        """

    @property
    def credentials(self) -> frozenset[str]:
        """The plugins whose configuration in a consumer is a credential."""

    def metadata(self, name: str, config: dict[str, Any], path: str, warnings: list[str]) -> None:
        """Check a plugin's metadata likewise."""


_MOST_WARNINGS = 20

AUTHENTICATION = frozenset(
    (
        *("key-auth", "basic-auth", "jwt-auth", "hmac-auth", "jwe-decrypt"),
        *("ldap-auth", "ldap-auth-advanced", "wolf-rbac"),
    )
)
"""APISIX's plugins whose configuration in a consumer is a credential."""


class Context:
    """What the checks of one value need besides the value: the keys, the plugins, and where warnings go."""

    __slots__ = ("check_plugin", "credentials", "keyring", "warnings")

    def __init__(self, keyring: Keyring | None, check_plugin: PluginCheck | None = None) -> None:
        self.keyring = keyring
        self.check_plugin = check_plugin
        self.credentials = check_plugin.credentials if check_plugin is not None else AUTHENTICATION
        self.warnings: list[str] = []


class Kind(Generic[R]):
    """A kind of resource: its struct, and the checks a type cannot say."""

    def __init__(self, struct: type[R], check: Callable[[R, Context], None]) -> None:
        self._check = check
        self._strict = msgspec.json.Decoder(struct)
        self._lenient: Lenient[R] = Lenient(struct)

    def decode(
        self, id_: str, raw: bytes, keyring: Keyring | None, check_plugin: PluginCheck | None = None
    ) -> tuple[R, list[str]]:
        """Decode one value; without ``check_plugin`` what is in plugins' configurations is not checked.

        Returns:
            The resource, with the id of its key, and warnings.

        Raises:
            InvalidResource: with the JSON path of the first fault.
        """
        context = Context(keyring, check_plugin)
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
        value = parsed(raw)
        if not isinstance(value, dict):
            raise InvalidResource("$", "must be an object")
        return self._lenient.typed(self._lenient.relaxed(value, "$", context.warnings), "$")


class Lenient(Generic[T]):
    """Converts decoded values to a type, however they are written."""

    def __init__(self, type_: type[T]) -> None:
        self._type = type_
        self._description = inspect.type_info(type_)
        self._relax = relax_for(self._description)

    def relaxed(self, value: Any, path: str, warnings: list[str]) -> Any:
        """Return a value in the form its type demands; InvalidResource for ``null``."""
        return value if self._relax is None else self._relax(value, path, warnings)

    def typed(self, value: Any, path: str) -> T:
        """Convert a relaxed value that stands at a path.

        Raises:
            InvalidResource: with the path of the first fault.
        """
        try:
            return msgspec.convert(value, self._type)
        except msgspec.ValidationError as error:
            raise _fault_of(error, self._description, path) from error


def _fault_of(error: msgspec.ValidationError, description: inspect.Type, at: str) -> InvalidResource:
    """Say what msgspec complains of, and where; and what may stand there when only some texts may."""
    reason, _, path = str(error).rpartition(" - at `")
    path = path.rstrip("`") if reason else "$"
    reason = reason or str(error)
    if reason.startswith("Invalid enum value"):
        reason += f"; must be one of {', '.join(map(str, _choices(description, path)))}"
    return InvalidResource(at + path[1:], reason)


def _choices(type_: inspect.Type, path: str) -> tuple[Any, ...]:
    """Find the literals that may stand at a path."""
    for name in re.findall(r"\.(\w+)", path):
        type_ = inner_type(type_)
        if isinstance(type_, inspect.StructType):
            type_ = next(field.type for field in type_.fields if field.encode_name == name)
    type_ = inner_type(type_)
    return type_.values if isinstance(type_, inspect.LiteralType) else ()


def parsed(raw: bytes) -> Any:
    """Decode JSON, whatever it holds; raises InvalidResource when it is none."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidResource("$", f"not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidResource("$", "nested too deeply") from error
