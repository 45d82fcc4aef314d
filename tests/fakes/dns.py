"""A real DNS server on UDP and TCP in threads of its own, whose answers change."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Literal

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Mood = Literal["answers", "fails", "is silent", "knows nothing", "truncates"]


class DnsServer:
    """Serves from ``with`` to its end; ``asked`` are the questions, as in "a.test A".

    When it ``truncates``, an answer over UDP says only that it is to be had over TCP; ``asked_by_tcp`` are those
    questions that came this way.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self.mood: Mood = "answers"
        self.asked: list[str] = []
        self.asked_by_tcp: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._socket.bind(self._server.getsockname())
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads = [threading.Thread(target=serve, daemon=True) for serve in (self._serve, self._serve_tcp)]

    def put(self, name: str, kind: str, *values: str, ttl: int = 1) -> None:
        """Let a name have these records of a kind."""
        self.records[name, kind] = ttl, list(values)

    def count(self, question: str) -> int:
        """Count how often something was asked."""
        return self.asked.count(question)

    def __enter__(self) -> "DnsServer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self._socket.getsockname())
        socket.create_connection(self._server.getsockname()).close()
        for thread in self._threads:
            thread.join()
        self._socket.close()
        self._server.close()

    def _serve(self) -> None:
        while True:
            data, client = self._socket.recvfrom(4096)
            if not data:
                return
            answer = self._answer(dns.message.from_wire(data))
            if answer is not None and self.mood == "truncates":
                answer.answer.clear()
                answer.flags |= dns.flags.TC
            if answer is not None:
                self._socket.sendto(answer.to_wire(), client)

    def _serve_tcp(self) -> None:
        """Answer one question for each connection; one that is closed without any ends it."""
        while True:
            client, _ = self._server.accept()
            with client, contextlib.suppress(OSError):
                client.settimeout(5)
                data = _read_message(client)
                if not data:
                    return
                answer = self._answer(dns.message.from_wire(data))
                self.asked_by_tcp.append(self.asked[-1])
                if answer is not None:
                    wire = answer.to_wire()
                    client.sendall(len(wire).to_bytes(2, "big") + wire)

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
        if self.mood in ("answers", "truncates"):
            alias = self.records.get((name, "CNAME"))
            if alias is not None:
                answer.answer.append(dns.rrset.from_text(question.name, alias[0], "IN", "CNAME", *alias[1]))
                name = alias[1][0].removesuffix(".")
            ttl, values = self.records.get((name, kind), (0, []))
            if values:
                answer.answer.append(dns.rrset.from_text(f"{name}.", ttl, "IN", kind, *values))
        return answer


def _read_message(sock: socket.socket) -> bytes:
    """Read a message with its length before it (RFC 1035 section 4.2.2); empty when there is none."""
    head = sock.recv(2, socket.MSG_WAITALL)
    return sock.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL) if len(head) == 2 else b""
