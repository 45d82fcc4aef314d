"""``propylon ctl explain``: asks a running gateway which route a request would get, and why the others lost."""

import json
from typing import Any
from urllib.parse import urlencode, urlsplit

from config_sync.ctl.control import ask
from config_sync.settings import Settings

FOUND, NOT_FOUND = 0, 1


def explain(settings: Settings, control: str, question: list[tuple[str, str]], as_json: bool) -> int:
    """Print an explanation; returns 1 when the request would not reach an upstream.

    Args:
        settings: where the control interface listens, unless ``control`` names another address.
        control: ``host:port``, or empty.
        question: the arguments of ``/v1/explain``.
        as_json: print the answer as it came.

    Raises:
        ConfigError: nobody answers there, or the question is refused.
    """
    answer = ask(settings, control, f"/v1/explain?{urlencode(question)}")
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(lines(answer)))
    return FOUND if answer["answer"] is None else NOT_FOUND


def question_of(
    target: str, method: str, host: str, fields: list[str], remote: str, limit: int, consumer: str = ""
) -> list[tuple[str, str]]:
    """Make the arguments of a question; ``target`` is a path, or a URL that brings the host, too."""
    parts = urlsplit(target)
    if parts.netloc:
        host = host or parts.netloc
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    question = [("method", method), ("uri", target), ("limit", str(limit))]
    given = (("host", host), ("remote_addr", remote), ("consumer", consumer))
    question += [(name, value) for name, value in given if value]
    return question + [("header", field) for field in fields]


def lines(answer: dict[str, Any]) -> list[str]:
    """Write an explanation for people."""
    told = [f"worker {answer['slot']}, revision {answer['revision']}"]
    request = answer.get("request")
    if request is not None:
        told[0] += f", {answer['mode']}"
        told.append(f"{request['method']} {request['uri']} host {request['host']} from {request['remote_addr']}")
    for one in answer.get("candidates", ()):
        mark = "=>" if one["result"] == "wins" else " -"
        bound = f" on {one['host']}" if one["host"] else ""
        reason = f"  {one['reason']}" if one["reason"] else ""
        told.append(f"{mark} routes/{one['route']}  {one['uri']}{bound}{reason}")
    told += [f"    routes/{one['route']}  {one['reason']}" for one in answer.get("others", ())]
    if answer.get("omitted"):
        told.append(f"    and {answer['omitted']} more; --limit shows them")
    told += _consequences(answer)
    if answer.get("changed_meanwhile"):
        told.append("the routes have changed while this was found out; ask again")
    return told


def _plugin(one: dict[str, Any]) -> str:
    told = f"plugin {one['name']} from {one['from']}, {' '.join(one['phases']) if one['runs'] else 'does not run'}"
    if one.get("filtered"):
        told += ", if its filter holds"
    return f"{told}: {one['reason']}" if one.get("reason") else told


def _consequences(answer: dict[str, Any]) -> list[str]:
    told = [_plugin(one) for one in answer.get("plugins", ())]
    upstream = answer.get("upstream")
    if upstream is not None:
        nodes = ", ".join(f"{one['node']} (weight {one['weight']})" for one in upstream["nodes"])
        told.append(f"upstream {upstream['id']} from {upstream['from']}: {nodes}")
        if upstream["node"]:
            told.append(f"next node {upstream['node']}")
    if answer["answer"] is not None:
        told.append(f"answered with {answer['answer']['status']}: {answer['answer']['reason']}")
    return told
