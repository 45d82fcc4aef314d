"""Long scenarios are run in pieces, which are kept in one file until there are enough of them."""

import json
from pathlib import Path
from typing import Any

from benchmarks.load.report import machine


def done(path: Path | None) -> int:
    """Return how many rounds are in the file."""
    return sum(piece["rounds"] for piece in _read(path)["pieces"])


def add(path: Path | None, command: str, piece: dict[str, Any]) -> dict[str, Any]:
    """Append a piece to the file, if there is one, and return what all pieces say together."""
    whole = _read(path)
    whole["command"], whole["machine"] = command, machine()
    whole["pieces"].append(piece)
    pieces = whole["pieces"]
    whole["rounds"] = sum(one["rounds"] for one in pieces)
    whole["answered"] = sum(one["answered"] for one in pieces)
    whole["failed"] = sum(one["failed"] for one in pieces)
    whole["complaints"] = [complaint for one in pieces for complaint in one["complaints"]]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(whole, indent=1) + "\n")
    return whole


def _read(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {"command": "", "machine": {}, "rounds": 0, "answered": 0, "failed": 0, "complaints": [], "pieces": []}
    whole: dict[str, Any] = json.loads(path.read_text())
    return whole
