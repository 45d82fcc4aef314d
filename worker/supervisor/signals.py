"""What a signal to the master means, in each phase of its life."""

import signal
from enum import Enum


class Phase(Enum):
    """What the master is doing."""

    STARTING = "starting"
    RUNNING = "running"
    RELOADING = "reloading"
    STOPPING = "stopping"


class Command(Enum):
    """What it is to do."""

    RELOAD = "reload"
    RELOAD_AGAIN = "reload again when this one is over"
    DRAIN = "drain all workers and exit"
    TERMINATE = "end all workers and exit"
    REOPEN_LOGS = "reopen logs"
    GROW = "one worker more"
    SHRINK = "one worker less"
    IGNORE = "nothing"


_ALWAYS = {
    signal.SIGQUIT: Command.DRAIN,
    signal.SIGTERM: Command.TERMINATE,
    signal.SIGINT: Command.TERMINATE,
    signal.SIGUSR1: Command.REOPEN_LOGS,
}
PLAN: dict[Phase, dict[signal.Signals, Command]] = {
    Phase.STARTING: {**_ALWAYS, signal.SIGHUP: Command.RELOAD_AGAIN},
    Phase.RUNNING: {
        **_ALWAYS,
        signal.SIGHUP: Command.RELOAD,
        signal.SIGTTIN: Command.GROW,
        signal.SIGTTOU: Command.SHRINK,
    },
    Phase.RELOADING: {**_ALWAYS, signal.SIGHUP: Command.RELOAD_AGAIN},
    Phase.STOPPING: {**_ALWAYS, signal.SIGQUIT: Command.IGNORE},
}
HANDLED = (*_ALWAYS, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD)


def plan(phase: Phase, received: signal.Signals) -> Command:
    """Decide what a signal means."""
    return PLAN[phase].get(received, Command.IGNORE)
