"""What a signal to the master means, in each phase of its life."""

import signal
from dataclasses import dataclass
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
    DRAIN = "drain all workers and exit"
    TERMINATE = "end all workers and exit"
    ABORT = "kill the workers that hang, and die"
    REOPEN_LOGS = "reopen logs"
    UPGRADE = "start the new code of the master beside this one"
    REST = "drain all workers and stay"
    GROW = "one worker more"
    SHRINK = "one worker less"
    IGNORE = "nothing"


_ALWAYS = {
    signal.SIGQUIT: Command.DRAIN,
    signal.SIGTERM: Command.TERMINATE,
    signal.SIGINT: Command.TERMINATE,
    signal.SIGUSR1: Command.REOPEN_LOGS,
    signal.SIGABRT: Command.ABORT,  # of systemd's watchdog
}
_WISHES = {
    signal.SIGHUP: Command.RELOAD,
    signal.SIGUSR2: Command.UPGRADE,
    signal.SIGWINCH: Command.REST,
    signal.SIGTTIN: Command.GROW,
    signal.SIGTTOU: Command.SHRINK,
}
PLAN: dict[Phase, dict[signal.Signals, Command]] = {
    Phase.STARTING: {**_ALWAYS, **_WISHES},
    Phase.RUNNING: {**_ALWAYS, **_WISHES},
    Phase.RELOADING: {**_ALWAYS, **_WISHES},
    Phase.STOPPING: {**_ALWAYS, signal.SIGQUIT: Command.IGNORE},
}
HANDLED = (*_ALWAYS, *_WISHES, signal.SIGCHLD)


def plan(phase: Phase, received: signal.Signals) -> Command:
    """Decide what a signal means."""
    return PLAN[phase].get(received, Command.IGNORE)


@dataclass
class Wishes:
    """What has been asked for, and is begun as soon as the master is RUNNING; those of one kind are merged."""

    reload: bool = False
    more: int = 0  # workers; fewer when negative
    upgrade: bool = False
    rest: bool = False

    def note(self, command: Command) -> None:
        """Note a command; a reload goes back to the number of workers of the settings."""
        if command is Command.RELOAD:
            self.reload, self.more, self.rest = True, 0, False
        elif command is Command.GROW:
            self.more += 1
        elif command is Command.SHRINK:
            self.more -= 1
        elif command is Command.UPGRADE:
            self.upgrade = True
        elif command is Command.REST:
            self.rest = True

    def take(self) -> "Wishes":
        """Return what there is, as now being done."""
        taken = Wishes(self.reload, self.more, self.upgrade, self.rest)
        self.reload, self.more, self.upgrade, self.rest = False, 0, False, False
        return taken

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.reload or self.more != 0 or self.upgrade or self.rest
