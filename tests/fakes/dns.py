"""A real DNS server on UDP in a thread of its own, whose answers change."""

import socket
import threading
from types import TracebackType
from typing import Literal

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Mood = Literal["answers", "fails", "is silent", "knows nothing"]


class DnsServer:
    """Serves from ``with`` to its end; ``asked`` are the questions, as in "a.test A"."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self.mood: Mood = "answers"
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def put(self, name: str, kind: str, *values: str, ttl: int = 1) -> None:
        """Let a name have these records of a kind."""
        self.records[name, kind] = ttl, list(values)

    def count(self, question: str) -> int:
        """Count how often something was asked."""
        return self.asked.count(question)

    def __enter__(self) -> "DnsServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, client = self._socket.recvfrom(4096)
            if not data:
                return
            answer = self._answer(dns.message.from_wire(data))
            if answer is not None:
                self._socket.sendto(answer.to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message | None:
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{name} {kind}")
        if self.mood == "is silent":
            return None
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if self.mood == "fails":
            answer.set_rcode(dns.rcode.SERVFAIL)
            return answer
        known = {key for key in self.records if key[0] == name}
        if self.mood == "knows nothing" or not known:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        if self.mood == "answers":
            alias = self.records.get((name, "CNAME"))
            if alias is not None:
                answer.answer.append(dns.rrset.from_text(question.name, alias[0], "IN", "CNAME", *alias[1]))
                name = alias[1][0].removesuffix(".")
            ttl, values = self.records.get((name, kind), (0, []))
            if values:
                answer.answer.append(dns.rrset.from_text(f"{name}.", ttl, "IN", kind, *values))
        return answer
