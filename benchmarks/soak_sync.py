"""Faults under writes: does everybody end with what etcd has, and was no transaction ever seen half?

``python -m benchmarks.soak_sync --help``; the method and the bounds stand in ``benchmarks/README.md``.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import logging
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.load.report import machine
from benchmarks.sync.control import ControlError, WatchedGateway
from benchmarks.sync.faults import Fault, Ground, faults
from benchmarks.sync.followers import Follower, digests_of
from benchmarks.sync.groups import PREFIX, PROBE, Groups, value_of
from benchmarks.sync.writers import Writers
from config_sync.digest import record_hash
from config_sync.settings import EtcdSettings
from tests.fakes.cluster import PASSWORD, READER, Caller, CallError, Cluster
from tests.fakes.wire import Wire

POLL = 5  # seconds; tokens live shorter, so that every poll but the first meets one that has expired
TOKEN_TTL = 4
AUDIT = 10.0
FOLLOWERS = 2
GIVE_UP = 60.0  # seconds; a fault that has not healed by then ends the soak
# etcd splits messages near this plus 512 KiB: small enough to have fragments after an outage of a few seconds.
MESSAGE_BYTES = 16_384


class SoakError(Exception):
    """The soak cannot go on."""


@dataclass
class Healing:
    """What came of one fault; times in seconds."""

    fault: str
    at: float
    seconds: float
    bound: float

    @property
    def in_time(self) -> bool:
        """Whether the bound was kept."""
        return self.seconds <= self.bound


@dataclass
class Outcome:
    """What came of the soak; it is good when ``complaints`` is empty."""

    healings: list[Healing] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    writes: dict[str, float] = field(default_factory=dict)
    batches: int = 0
    records: int = 0
    workers: list[dict[str, Any]] = field(default_factory=list)
    followers: list[dict[str, Any]] = field(default_factory=list)

    def worst(self) -> dict[str, Healing]:
        """Return the slowest healing of each kind of fault."""
        worst: dict[str, Healing] = {}
        for healing in self.healings:
            if healing.fault not in worst or healing.seconds > worst[healing.fault].seconds:
                worst[healing.fault] = healing
        return worst


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, cluster: Cluster, wires: Sequence[Wire], directory: Path) -> None:
        self._options = options
        self._cluster = cluster
        self._chance = random.Random(options.seed)
        self._groups = Groups(options.keys, self._chance)
        self._caller = cluster.caller()
        self._tokens = iter(range(10**11, 10**12))
        settings: dict[str, Any] = {
            "host": [wire.url for wire in wires],
            "user": READER,
            "password": PASSWORD,
            "timeout": 5.0,
            "watch_timeout": POLL,
            "resync_delay": 0.5,
            "audit_interval": AUDIT,
            "deep_audit_interval": 6 * AUDIT,
        }
        self._gateway: WatchedGateway | None = None
        if options.workers:
            etcd = {**settings, "watch": options.watch}
            self._gateway = WatchedGateway(directory, options.workers, etcd, log_level="info")
        settings["host"] = tuple(settings["host"])
        self._followers = [
            Follower(f"follower {number}", EtcdSettings(**settings), self._groups) for number in range(FOLLOWERS)
        ]
        self._ground = Ground(cluster, wires, self._chance, self._worker_pids)
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """Write and break for so many seconds, then compare."""
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            stack.callback(self._caller.close)
            revision = await self._probe()
            for follower in self._followers:
                follower.provider.start()
                stack.callback(follower.provider.stop)
            if self._gateway is not None:
                stack.callback(self._gateway.kill)
                await asyncio.to_thread(self._gateway.start)
            await self._healed(revision)
            with Writers(self._cluster, self._groups, self._options.rate, self._options.seed) as writers:
                try:
                    await self._break_things(loop.time() + self._options.seconds)
                finally:
                    await asyncio.to_thread(self._cluster.start)
            self.outcome.writes = {
                "acknowledged": writers.acknowledged,
                "unknown": writers.unknown,
                "per_second": round(writers.acknowledged / writers.seconds, 1),
            }
            await self._compare()
        return self.outcome

    async def _break_things(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        kinds = [kind for kind in faults(POLL) if self._gateway is not None or kind.name != "kill worker"]
        kinds = [kind for kind in kinds if not self._options.faults or kind.name in self._options.faults]
        left: list[Fault] = []
        while loop.time() < until:
            await asyncio.sleep(self._chance.uniform(0.5, 2.5))
            if not left:  # every kind before any of them again
                left = self._chance.sample(kinds, len(kinds))
            fault = left.pop()
            at = loop.time() - began
            seconds = await self._one(fault)
            healing = Healing(fault.name, round(at, 1), round(seconds, 3), fault.bound)
            self.outcome.healings.append(healing)
            if not healing.in_time:
                self._complain(f"{fault.name} at {at:.1f} s: healed after {seconds:.1f} s, bound {fault.bound:.1f} s")
            _say(f"{at:7.1f} s  {fault.name:15} healed after {seconds:6.2f} s of {fault.bound:.1f} s")

    async def _one(self, fault: Fault) -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        undo = await fault.inject(self._ground)
        hold = self._chance.uniform(*fault.hold)
        seconds = 0.0
        if not fault.total:
            seconds = await self._healed(await self._probe()) - started
        await asyncio.sleep(max(0.0, started + hold - loop.time()))
        ended = loop.time()
        await undo()
        after = await self._healed(await self._probe()) - ended
        return max(seconds, after)

    async def _probe(self) -> int:
        """Write, whatever it takes, and return the revision."""
        value = {PREFIX + PROBE: value_of("routes", next(self._tokens))}
        async with asyncio.timeout(GIVE_UP):
            while True:
                try:
                    return await asyncio.to_thread(self._caller.put_many, value)
                except CallError:
                    await asyncio.sleep(0.05)

    async def _healed(self, revision: int) -> float:
        """Wait until everybody has a revision; returns when that was, of the loop's clock."""
        try:
            async with asyncio.timeout(GIVE_UP):
                times = await asyncio.gather(*(follower.reach(revision) for follower in self._followers))
                if self._gateway is not None and not await asyncio.to_thread(self._gateway.wait, revision, GIVE_UP):
                    raise TimeoutError
        except TimeoutError:
            raise SoakError(f"revision {revision} has not arrived after {GIVE_UP:.0f} s: {self._state()}") from None
        return max(*times, asyncio.get_running_loop().time() if self._gateway is not None else 0.0)

    async def _compare(self) -> None:
        """Compare everybody with a linearizable list."""
        await self._healed(await self._probe())
        revision, records = await asyncio.to_thread(_list, self._caller)
        wanted = digests_of(records, record_hash)
        self.outcome.records = len(records)
        for follower in self._followers:
            self.outcome.batches += follower.batches
            for half in follower.halves[:10]:
                self._complain(f"{follower.name} has seen half a transaction: {half}")
            if follower.records() != records:
                different = sorted(set(follower.records().items()) ^ set(records.items()))
                self._complain(f"{follower.name} at {revision} differs in {len(different)}: {different[:3]}")
            self.outcome.followers.append({"name": follower.name, "batches": follower.batches})
        if self._gateway is not None:
            await self._compare_workers(wanted)

    async def _compare_workers(self, wanted: Mapping[str, int]) -> None:
        assert self._gateway is not None
        answer = await asyncio.to_thread(self._gateway.sync)
        digests = {directory: f"{digest:032x}" for directory, digest in wanted.items() if digest}
        ready = [worker for worker in answer["workers"] if worker["state"] == "ready"]
        if len(ready) != self._options.workers or not answer["agree"]:
            self._complain(f"{len(ready)} workers are ready, agree: {answer['agree']}")
        for worker in ready:
            self.outcome.workers.append(worker)
            if worker["digests"] != digests:
                self._complain(f"worker {worker['slot']} has {worker['digests']}, etcd {digests}")

    def _complain(self, text: str) -> None:
        self.outcome.complaints.append(text)
        _say(f"WRONG: {text}")

    def _worker_pids(self) -> set[int]:
        return self._gateway.workers() if self._gateway is not None else set()

    def _state(self) -> str:
        states = [f"{follower.name}: {follower.provider.state()}" for follower in self._followers]
        if self._gateway is not None:
            try:
                states.append(json.dumps(self._gateway.sync()))
            except ControlError as error:
                states.append(str(error))
        return "; ".join(states)


def _list(caller: Caller) -> tuple[int, dict[str, tuple[int, bytes]]]:
    revision, found = caller.list(PREFIX)
    records = {
        base64.b64decode(one["key"]).decode()[len(PREFIX) :]: (int(one["mod_revision"]), base64.b64decode(one["value"]))
        for one in found
    }
    return revision, records


async def soak(options: argparse.Namespace, directory: Path) -> Outcome:
    """Run a soak in a directory."""
    cluster = Cluster(directory, token_ttl=TOKEN_TTL, options=("--max-request-bytes", str(MESSAGE_BYTES)))
    wires = [Wire(url) for url in cluster.urls]
    try:
        await asyncio.to_thread(cluster.start)
        for wire in wires:
            await wire.start()
        run = Soak(options, cluster, wires, directory)
        try:
            return await run.run()
        except (SoakError, TimeoutError) as error:
            run.outcome.complaints.append(f"given up: {error}")
            return run.outcome
    finally:
        for wire in wires:
            await wire.stop()
        await asyncio.to_thread(cluster.kill)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak_sync", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long faults are injected (default 600)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is random (default 1)")
    parser.add_argument(
        "--workers", type=int, default=3, help="of the gateway; 0: in-process followers only (default 3)"
    )
    parser.add_argument("--watch", choices=("worker", "node"), default="worker", help="the gateway's etcd.watch")
    parser.add_argument("--rate", type=float, default=200.0, help="transactions per second (default 200)")
    parser.add_argument("--keys", type=int, default=500, help="keys written to (default 500)")
    parser.add_argument("--faults", type=lambda text: text.split(","), default=[], help="only these, by name")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser.parse_args(arguments)


def result_of(options: argparse.Namespace, outcome: Outcome) -> dict[str, Any]:
    """Return the result as it is written to a file."""
    counts: dict[str, int] = {}
    for healing in outcome.healings:
        counts[healing.fault] = counts.get(healing.fault, 0) + 1
    return {
        "machine": machine(),
        "options": {key: value for key, value in vars(options).items() if key != "json"},
        "writes": outcome.writes,
        "records": outcome.records,
        "batches": outcome.batches,
        "complaints": outcome.complaints,
        "faults": {
            name: {"times": counts[name], "worst_s": worst.seconds, "bound_s": worst.bound}
            for name, worst in sorted(outcome.worst().items())
        },
        "healings": [vars(healing) for healing in outcome.healings],
        "workers": outcome.workers,
        "followers": outcome.followers,
    }


def describe(result: Mapping[str, Any]) -> str:
    """Return the result as a table."""
    lines = [f"{'fault':16}{'times':>6}{'worst':>9}{'bound':>8}"]
    lines += [
        f"{name:16}{row['times']:6}{row['worst_s']:7.2f} s{row['bound_s']:6.1f} s"
        for name, row in result["faults"].items()
    ]
    lines.append(f"{result['writes']}, {result['records']} records at the end, {result['batches']} batches looked at")
    lines += result["complaints"] or ["every digest equals etcd's, no transaction was seen half, all healed in time"]
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run, print and write; 0 if nothing was wrong."""
    options = parse_arguments(arguments)
    logging.getLogger("propylon").addHandler(logging.NullHandler())  # what followers say of faults is no news
    with tempfile.TemporaryDirectory(prefix="propylon-soak-") as directory:
        outcome = uvloop.run(soak(options, Path(directory)))
    result = result_of(options, outcome)
    print(describe(result))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if outcome.complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
