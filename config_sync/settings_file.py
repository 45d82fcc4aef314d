"""The settings file, ``conf/config.yaml``: read and checked in full before anything happens.

The file is parsed as YAML; placeholders are then replaced from the environment (``environment``). An unknown key
is refused with its path.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from config_sync.environment import VariableError, substituted
from config_sync.errors import SettingsError
from config_sync.settings import Settings
from config_sync.settings_check import check_settings

DISCOVERIES_TO_COME = ("consul", "consul_kv", "eureka", "kubernetes", "nacos", "tars")
SIZES = (
    "client_max_body_size",
    "client_body_buffer_size",
    "large_client_header_buffers",
    "max_post_args_readable_size",
    "max_worker_rss",
)
ETCD_HOST_VARIABLE = "APISIX_DEPLOYMENT_ETCD_HOST"
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhd]?)")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_SIZE = re.compile(r"([0-9]+)([kKmMgG]?)")
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def load_settings(path: str | Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read and check a settings file.

    Raises:
        SettingsError: with the file and the key, and what would be right.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        tree = yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is no YAML: {error}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{path}: must be a mapping of settings")
    try:
        return read_settings(tree, environment)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def read_settings(tree: dict[str, Any], environment: Mapping[str, str]) -> Settings:
    """Make settings of a parsed file; raises SettingsError with the key."""
    try:
        tree = substituted(tree, environment)
    except VariableError as error:
        raise SettingsError(str(error)) from error
    _normalise(tree, environment)
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).rpartition(" - at `$.")
        key = place.rstrip("`")
        raise SettingsError(f"{key}: {reason}" if reason else str(error)) from error
    check_settings(settings)
    return settings


def _normalise(tree: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name in SIZES:
        if isinstance(tree.get(name), str):
            tree[name] = parse_size(tree[name], name)
    for name in ("real_ip_from", "trusted_addresses"):
        if isinstance(tree.get(name), str):
            tree[name] = [tree[name]]
    if isinstance(tree.get("listen"), str | int):
        tree["listen"] = [str(tree["listen"])]
    elif isinstance(tree.get("listen"), list):
        tree["listen"] = [str(entry) for entry in tree["listen"]]
    if tree.get("control") is False:
        tree["control"] = {"listen": ""}
    encryption = tree.get("data_encryption")
    if isinstance(encryption, dict) and isinstance(encryption.get("keyring"), str):
        encryption["keyring"] = [encryption["keyring"]]
    _normalise_discovery(tree.get("discovery"))
    _normalise_cache(tree.get("proxy_cache"))
    etcd = tree.get("etcd")
    if isinstance(etcd, dict) and isinstance(etcd.get("host"), str):
        etcd["host"] = [etcd["host"]]
    hosts = environment.get(ETCD_HOST_VARIABLE)
    if hosts:
        try:
            tree["etcd"] = {**(etcd or {}), "host": json.loads(hosts)}
        except json.JSONDecodeError as error:
            raise SettingsError(f"{ETCD_HOST_VARIABLE} in the environment is no JSON list: {error}") from error


def _normalise_discovery(discovery: object) -> None:
    if isinstance(discovery, dict):
        for name in DISCOVERIES_TO_COME:
            if name in discovery:
                raise SettingsError(f"discovery.{name}: is not available yet; dns is")
        if discovery.get("dns", ...) is None:
            discovery["dns"] = {}  # a section without entries


def _normalise_cache(cache: object) -> None:
    if not isinstance(cache, dict):
        return
    if isinstance(cache.get("cache_ttl"), str):
        cache["cache_ttl"] = parse_time(cache["cache_ttl"], "proxy_cache.cache_ttl")
    zones = cache.get("zones")
    for at, zone in enumerate(zones if isinstance(zones, list) else ()):
        for name in ("memory_size", "disk_size"):
            if isinstance(zone, dict) and isinstance(zone.get(name), str):
                zone[name] = parse_size(zone[name], f"proxy_cache.zones[{at}].{name}")


def parse_time(text: str, key: str) -> float:
    """Read a number of seconds, or one with ms, s, m, h or d."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise SettingsError(f"{key}: {text!r} is no time; write seconds, or a number with ms, s, m, h or d")
    return float(found[1]) * _SECONDS[found[2]]


def parse_size(text: str, key: str) -> int:
    """Read a number of bytes with an optional k, m or g."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise SettingsError(f"{key}: {text!r} is no size; write bytes, or a number with k, m or g")
    return int(found[1]) * _UNITS[found[2].lower()]
