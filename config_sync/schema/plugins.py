"""What holds plugins: their shape, consumer groups, global rules, plugin configs, metadata and the plugin list.

A plugin's configuration stays a JSON object: what is in it, the plugin itself knows (data-model.md sections 7 to 10;
plugins.md section 1).
"""

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from config_sync import sensitive
from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema.decoding import Context, Kind, Lenient, PluginCheck, parsed
from config_sync.schema.expressions import check_expression
from config_sync.schema.fields import (
    NOTHING,
    LabelledResource,
    NamedResource,
    Resource,
    check_labels,
    refuse_lua,
    shown,
)
from config_sync.schema.plugin_expressions import PATHS, check_plugin_expressions

_LUA = {
    "serverless-pre-function": "functions",
    "serverless-post-function": "functions",
    "exit-transformer": "functions",
}

PluginConfigs = Mapping[str, Any]
"""By plugin its configuration, a JSON object."""


class ConsumerGroup(NamedResource, kw_only=True, forbid_unknown_fields=True):
    """Plugins for the consumers that name this group."""

    plugins: PluginConfigs


class PluginConfig(LabelledResource, kw_only=True, forbid_unknown_fields=True):
    """Plugins for the routes that name this."""

    name: str | None = None
    plugins: PluginConfigs


class GlobalRule(Resource, kw_only=True, forbid_unknown_fields=True):
    """Plugins for every request."""

    plugins: PluginConfigs


class PluginMetadata(msgspec.Struct):
    """What is configured once for all uses of a plugin; ``id`` is the plugin's name."""

    id: str
    config: Mapping[str, Any] = NOTHING


class PluginMeta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every plugin's configuration may hold under ``_meta``."""

    disable: bool = False
    priority: int | None = None
    filter: tuple[Any, ...] = ()
    error_response: str | dict[str, Any] | None = None
    pre_function: str | None = None


_META = Lenient(PluginMeta)


class ListedPlugin(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """An entry of the list of enabled plugins."""

    name: str
    stream: bool = False


def is_disabled(config: Mapping[str, Any]) -> bool:
    """Tell whether a plugin's configuration says that it does not run; ``disable`` at the top is how 2.x wrote it."""
    meta = config.get("_meta")
    return config.get("disable") is True or (isinstance(meta, dict) and meta.get("disable") is True)


def check_plugins(
    plugins: PluginConfigs,
    path: str,
    context: Context,
    secrets: sensitive.Paths = sensitive.PLUGIN,
    credentials: bool = False,
) -> None:
    """Check plugins' configurations and decrypt their secrets, in place.

    With ``credentials`` those of authenticating plugins are what consumers prove themselves with.
    """
    keyring = context.keyring if context.keyring is not None and context.keyring.are_fields_encrypted else None
    for name, config in plugins.items():
        if not isinstance(config, dict):
            if config != []:
                raise InvalidResource(f"{path}[{shown(name)}]", "must be an object")
            cast("dict[str, Any]", plugins)[name] = {}
            continue
        if "_meta" in config:
            _check_meta(config, f"{path}[{shown(name)}]._meta", context)
        if name in _LUA and not is_disabled(config):
            raise InvalidResource(
                f"{path}[{shown(name)}].{_LUA[name]}", "Lua is not supported; use another plugin, or set _meta.disable"
            )
        if name in PATHS and not is_disabled(config):
            check_plugin_expressions(name, config, f"{path}[{shown(name)}]")
        if keyring is not None and name in secrets:
            for field in secrets[name]:
                sensitive.rewrite(config, field, keyring.decrypt)
        if context.check_plugin is not None and not is_disabled(config):
            is_credential = credentials and name in context.credentials
            context.check_plugin(name, config, f"{path}[{shown(name)}]", is_credential, context.warnings)


def _check_meta(config: dict[str, Any], path: str, context: Context) -> None:
    meta = config["_meta"]
    if is_disabled(config):
        return  # nothing of it is used
    config["_meta"] = relaxed = _META.relaxed(meta, path, context.warnings)
    checked = _META.typed(relaxed, path)
    refuse_lua(checked.pre_function, f"{path}.pre_function")
    check_expression(checked.filter, f"{path}.filter")


def _check_group(group: ConsumerGroup | PluginConfig, context: Context) -> None:
    check_labels(group.labels, "$")
    check_plugins(group.plugins, "$.plugins", context)


def _check_global_rule(rule: GlobalRule, context: Context) -> None:
    check_plugins(rule.plugins, "$.plugins", context)


_CONSUMER_GROUP = Kind(ConsumerGroup, _check_group)
_PLUGIN_CONFIG = Kind(PluginConfig, _check_group)
_GLOBAL_RULE = Kind(GlobalRule, _check_global_rule)


def decode_consumer_group(
    id_: str, raw: bytes, keyring: Keyring | None = None, check_plugin: PluginCheck | None = None
) -> tuple[ConsumerGroup, list[str]]:
    """Decode a value under ``consumer_groups/``; see ``Kind.decode``."""
    return _CONSUMER_GROUP.decode(id_, raw, keyring, check_plugin)


def decode_plugin_config(
    id_: str, raw: bytes, keyring: Keyring | None = None, check_plugin: PluginCheck | None = None
) -> tuple[PluginConfig, list[str]]:
    """Decode a value under ``plugin_configs/``; see ``Kind.decode``."""
    return _PLUGIN_CONFIG.decode(id_, raw, keyring, check_plugin)


def decode_global_rule(
    id_: str, raw: bytes, keyring: Keyring | None = None, check_plugin: PluginCheck | None = None
) -> tuple[GlobalRule, list[str]]:
    """Decode a value under ``global_rules/``; see ``Kind.decode``."""
    return _GLOBAL_RULE.decode(id_, raw, keyring, check_plugin)


def decode_plugin_metadata(
    id_: str, raw: bytes, keyring: Keyring | None = None, check_plugin: PluginCheck | None = None
) -> tuple[PluginMetadata, list[str]]:
    """Decode a value under ``plugin_metadata/``; see ``Kind.decode``."""
    value = parsed(raw)
    if value == []:
        value = {}
    if not isinstance(value, dict):
        raise InvalidResource("$", "must be an object")
    value.pop("id", None)
    warnings: list[str] = []
    if keyring is not None and keyring.are_fields_encrypted:
        for path in sensitive.METADATA.get(id_, ()):
            sensitive.rewrite(value, path, keyring.decrypt)
    if check_plugin is not None:
        check_plugin.metadata(id_, value, "$", warnings)
    return PluginMetadata(id_, value or NOTHING), warnings


_LIST: Lenient[tuple[ListedPlugin, ...]] = Lenient(tuple[ListedPlugin, ...])


def decode_plugin_list(
    id_: str, raw: bytes, keyring: Keyring | None = None
) -> tuple[tuple[ListedPlugin, ...], list[str]]:
    """Decode the value of the key ``plugins``; see ``Kind.decode``."""
    warnings: list[str] = []
    return _LIST.typed(_LIST.relaxed(parsed(raw), "$", warnings), "$"), warnings
