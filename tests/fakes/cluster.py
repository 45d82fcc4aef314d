"""A real etcd cluster on loopback whose members can be killed, stopped and started again, and calls to it.

Everything here blocks.
"""

import base64
import contextlib
import http.client
import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from conf.demo.embedded_etcd import etcd_binary
from tests.fakes.processes import PATIENCE, free_port

T = TypeVar("T")

READER = "gateway"  # the user who may only read /apisix/
PASSWORD = "correct-horse"
TRANSACTION_OPERATIONS = 128  # etcd's --max-txn-ops, by default
_PAGE_KEYS = 1_000


class CallError(Exception):
    """No member has answered a call as it should; a write may have been applied all the same."""


class _Refused(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Caller:
    """Calls etcd's JSON gateway over one kept-alive connection; asks the next member when one fails."""

    def __init__(self, urls: Sequence[str], user: str = "", timeout: int = 2) -> None:
        """Begin with the first address; ``timeout`` in seconds bounds one try at one member."""
        self._urls = list(urls)
        self._user = user
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None
        self._token = ""

    def call(self, path: str, body: Mapping[str, object], tries: int = 1) -> dict[str, Any]:
        """POST to ``/v3/<path>``, up to ``tries`` times to each member.

        Raises:
            CallError: nobody has answered with success.
        """
        error = CallError(f"{path}: no member")
        for number in range(tries * len(self._urls)):
            try:
                return self._call(path, body)
            except _Refused as refused:
                error = CallError(f"{self._urls[0]}/v3/{path}: code {refused.code}: {refused}")
            except (OSError, http.client.HTTPException) as failure:
                error = CallError(f"{self._urls[0]}/v3/{path}: {failure!r}")
            self._next()
            if number >= len(self._urls) - 1:
                time.sleep(0.1)
        raise error

    def put_many(self, values: Mapping[str, bytes]) -> int:
        """Write keys, in transactions as large as etcd allows; returns the revision of the last."""
        puts = [{"request_put": {"key": text(key), "value": text(value)}} for key, value in values.items()]
        revision = 0
        for start in range(0, len(puts), TRANSACTION_OPERATIONS):
            answer = self.call("kv/txn", {"success": puts[start : start + TRANSACTION_OPERATIONS]}, tries=3)
            revision = int(answer["header"]["revision"])
        return revision

    def list(self, prefix: str) -> tuple[int, list[dict[str, Any]]]:
        """Read everything below a prefix, linearizably and at one revision; returns it and the records."""
        end = text(prefix[:-1] + chr(ord(prefix[-1]) + 1))
        key, revision, records = text(prefix), 0, []
        while True:
            at = {"revision": str(revision)} if revision else {}
            answer = self.call("kv/range", {"key": key, "range_end": end, "limit": _PAGE_KEYS, **at}, tries=3)
            revision = revision or int(answer["header"]["revision"])
            records += answer.get("kvs", [])
            if not answer.get("more"):
                return revision, records
            key = text(base64.b64decode(records[-1]["key"]) + b"\0")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _next(self) -> None:
        self.close()
        self._token = ""
        self._urls.append(self._urls.pop(0))

    def _call(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        if not self._user:
            return self._ask(path, body)
        with contextlib.suppress(_Refused):
            if self._token:
                return self._ask(path, body)
        # There is none yet, or it has expired on this member.
        self._token = ""
        self._token = self._ask("auth/authenticate", {"name": self._user, "password": PASSWORD})["token"]
        return self._ask(path, body)

    def _ask(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        if self._connection is None:
            parts = urlsplit(self._urls[0])
            self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=self._timeout + 1)
        headers = {"Grpc-Timeout": f"{self._timeout}S", **({"Authorization": self._token} if self._token else {})}
        self._connection.request("POST", f"/v3/{path}", json.dumps(body), headers)
        response = self._connection.getresponse()
        data = response.read()
        answer: dict[str, Any] = json.loads(data)
        if response.status != http.HTTPStatus.OK:
            raise _Refused(int(answer.get("code", 0)), str(answer.get("message", "")))
        return answer


def text(data: str | bytes) -> str:
    """Write bytes as the gateway takes them."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


class Member:
    """One process of the cluster."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{free_port()}"
        self.peer_url = f"http://127.0.0.1:{free_port()}"
        self._directory = directory / name
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def start(self, cluster: str, options: Sequence[str]) -> None:
        """Start it with the data it had; returns at once."""
        if self._process is not None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(etcd_binary()), "--name", self.name, "--data-dir", str(self._directory / "data")),
                    *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
                    *("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url),
                    *("--initial-cluster", cluster, "--log-level", "error", "--unsafe-no-fsync", *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End it with SIGKILL; nothing happens when it does not run."""
        process, self._process, self._stopped = self._process, None, False
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Halt it with SIGSTOP: it is silent, and the kernel still accepts for it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            self._stopped = True

    def cont(self) -> None:
        """Let it go on."""
        if self._process is not None and self._stopped:
            self._process.send_signal(signal.SIGCONT)
            self._stopped = False

    @property
    def running(self) -> bool:
        """Whether it runs and is not stopped."""
        return self._process is not None and not self._stopped


class Cluster:
    """Members that elect a leader among them."""

    def __init__(self, directory: Path, size: int = 3, token_ttl: int = 0, options: Sequence[str] = ()) -> None:
        """Choose ports; with ``token_ttl`` (seconds) authentication is switched on at the start.

        Users are then ``root``, who may do everything, and ``READER``; both have ``PASSWORD``.
        """
        self.members = [Member(f"member{number}", directory) for number in range(size)]
        self._token_ttl = token_ttl
        self._options = list(options)  # more of etcd's
        self.user = "root" if token_ttl else ""  # whom a ``Caller`` that writes has to be

    @property
    def urls(self) -> list[str]:
        """The client addresses of the members."""
        return [member.url for member in self.members]

    def start(self) -> None:
        """Start all members that do not run, and wait until there is a leader."""
        first = not any(member.running for member in self.members)
        for member in self.members:
            self.start_member(member)
        self.wait_for_leader()
        if first and self._token_ttl:
            self._enable_authentication()

    def start_member(self, member: Member) -> None:
        """Start a member with the data it had."""
        options = ["--heartbeat-interval", "50", "--election-timeout", "500", *self._options]
        if self._token_ttl:
            options += ["--auth-token-ttl", str(self._token_ttl), "--bcrypt-cost", "4"]
        member.start(",".join(f"{one.name}={one.peer_url}" for one in self.members), options)

    def kill(self) -> None:
        """End all members."""
        for member in self.members:
            member.kill()

    def leader(self) -> Member | None:
        """Ask the members who run; None while they do not agree on a leader that runs."""
        names: dict[str, Member] = {}
        leaders: set[str] = set()
        for member in self.members:
            status = _status(member) if member.running else None
            if status is not None:
                names[status["header"]["member_id"]] = member
                leaders.add(status.get("leader", "0"))
        return names.get(leaders.pop()) if len(leaders) == 1 else None

    def wait_for_leader(self, patience: float = PATIENCE) -> Member:
        """Wait until the running members have a leader."""
        until = time.monotonic() + patience
        while (leader := self.leader()) is None:
            if time.monotonic() > until:
                raise AssertionError(f"no leader within {patience} s")
            time.sleep(0.02)
        return leader

    def caller(self, timeout: int = 2) -> Caller:
        """Return one who may write and asks all members."""
        return Caller(self.urls, self.user, timeout)

    def revision(self) -> int:
        """Read the revision, linearizably."""
        return self._with_caller(lambda caller: int(caller.call("kv/range", {"key": "AA=="}, 3)["header"]["revision"]))

    def compact(self, revision: int) -> None:
        """Forget history before a revision."""
        self._with_caller(lambda caller: caller.call("kv/compaction", {"revision": str(revision)}, 3))

    def revoke_tokens(self, user: str = READER) -> None:
        """Make every token of a user worthless, on all members: its password is set anew."""
        self._with_caller(lambda caller: caller.call("auth/user/changepw", {"name": user, "password": PASSWORD}, 3))

    def _enable_authentication(self) -> None:
        permission = {"permType": "READ", "key": text("/apisix/"), "range_end": text("/apisix0")}
        caller = Caller(self.urls)
        for path, body in (
            ("auth/user/add", {"name": "root", "password": PASSWORD}),
            ("auth/user/grant", {"user": "root", "role": "root"}),
            ("auth/role/add", {"name": READER}),
            ("auth/role/grant", {"name": READER, "perm": permission}),
            ("auth/user/add", {"name": READER, "password": PASSWORD}),
            ("auth/user/grant", {"user": READER, "role": READER}),
            ("auth/enable", {}),
        ):
            caller.call(path, body)
        caller.close()

    def _with_caller(self, ask: Callable[[Caller], T]) -> T:
        caller = self.caller()
        try:
            return ask(caller)
        finally:
            caller.close()


def _status(member: Member) -> dict[str, Any] | None:
    parts = urlsplit(member.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=1)
    try:
        connection.request("POST", "/v3/maintenance/status", "{}")
        status: dict[str, Any] = json.load(connection.getresponse())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    else:
        return status if "leader" in status else None
    finally:
        connection.close()
