"""``make etcdctl ARGS=...``: etcdctl against the demo's etcd, with arguments as one pastes them.

JSON passes through two shells on the way from a make command line and loses its quotes in the second. So the
arguments arrive here in an environment variable, and are split where a reader would split them.
"""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from conf.demo.embedded_etcd import EtcdError, etcd_binary

DEFAULT_URL = "http://127.0.0.1:2379"


def split(text: str) -> list[str]:
    """Split words as a shell does, but take a JSON object for one word and keep it as it is."""
    words: list[str] = []
    decoder = json.JSONDecoder()
    at = 0
    while (brace := _next_object(text, at)) >= 0:
        words += shlex.split(text[at:brace])
        try:
            _, at = decoder.raw_decode(text, brace)
        except ValueError as error:
            raise ValueError(f"not JSON: {text[brace:]} ({error})") from error
        words.append(text[brace:at])
    return words + shlex.split(text[at:])


def _next_object(text: str, start: int) -> int:
    """Return where the next word that begins with a brace begins, or -1."""
    at = start
    while at < len(text):
        at = text.find("{", at)
        if at < 0:
            break
        if at == start or text[at - 1].isspace():
            return at
        at += 1
    return -1


def url_file(environ: Mapping[str, str]) -> Path:
    """Return where the demo leaves the address of an etcd that it has started, beside that etcd's data."""
    return Path(environ.get("PROPYLON_RUNTIME_DIR", "run")) / "etcd" / "url"


def endpoints(environ: Mapping[str, str]) -> str:
    """Return the etcd that the gateway would use: a configured one, the demo's, or the default."""
    configured = environ.get("PROPYLON_ETCD_HOST")
    if configured:
        return configured
    if environ.get("APISIX_DEPLOYMENT_ETCD_HOST"):
        return ",".join(json.loads(environ["APISIX_DEPLOYMENT_ETCD_HOST"]))
    left = url_file(environ)
    return left.read_text().strip() if left.exists() else DEFAULT_URL


def main() -> None:
    """Become etcdctl."""
    try:
        words = split(os.environ.get("PROPYLON_ARGS", ""))
        binary = str(etcd_binary("etcdctl"))
    except (ValueError, EtcdError) as error:
        sys.exit(f"make etcdctl: {error}")
    os.environ.setdefault("ETCDCTL_ENDPOINTS", endpoints(os.environ))
    os.execv(binary, [binary, *words])


if __name__ == "__main__":
    main()
