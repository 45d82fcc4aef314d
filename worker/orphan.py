"""What a worker looks for when its master has died, and it is to serve until there is another."""

import json
from pathlib import Path

from config_sync.settings import Settings
from worker.supervisor.files import MASTER_STATE, PidFile, is_alive

LOOK = 1.0  # seconds


def has_successor(settings: Settings, former: int) -> bool:
    """Tell whether a living master other than ``former`` says that its workers serve; reads files.

    It is named by the pid file, and ``master.json`` in the runtime directory says that it is ready.
    """
    pid = PidFile(settings.path(settings.pid)).read()
    if pid is None or pid == former or not is_alive(pid):
        return False
    try:
        state = json.loads((Path(settings.runtime_dir) / MASTER_STATE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("pid") == pid and state.get("ready") is True
