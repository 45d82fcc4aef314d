"""Asking the control interface of a running gateway."""

import http.client
import json
from typing import Any

from config_sync.errors import ConfigError
from config_sync.settings import Settings, parse_address

PATIENCE = 10.0  # seconds


def ask(settings: Settings, control: str, target: str) -> Any:
    """Return what was decoded of the answer to a GET.

    Args:
        settings: where the control interface listens, unless ``control`` names another address.
        control: ``host:port``, or empty.
        target: path and query.

    Raises:
        ConfigError: nobody answers there, or the request is refused.
    """
    address = parse_address(control) if control else settings.control_address()
    if address is None:
        raise ConfigError("control.listen is empty, so nobody can be asked; --control names another address")
    connection = http.client.HTTPConnection(address.host, address.port, timeout=PATIENCE)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        answer = json.load(response)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConfigError(f"the control interface at {address} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise ConfigError(f"the control interface at {address}: {answer.get('error_msg', response.status)}")
    return answer
