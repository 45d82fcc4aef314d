"""Steering: classic BPF programs that decide which listening sockets get new connections. No privilege is needed.

Two kinds. A program of a reuseport group returns the index of the socket that gets a SYN, where the kernel would take
one by a hash; an index that the group does not have leaves it to the hash. A filter of one socket sees each of its
segments, from the TCP header on, and returns how much of it to keep: without SYNs nobody new comes, and handshakes
under way are finished.

Facts of the kernel: net/core/sock_reuseport.c, net/core/filter.c, include/uapi/linux/{filter,bpf_common}.h.
"""

import contextlib
import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

# Numbers of include/uapi/asm-generic/socket.h, for which the module socket has no names.
SO_ATTACH_FILTER = 26
SO_DETACH_FILTER = 27
SO_ATTACH_REUSEPORT_CBPF = 51
SO_DETACH_REUSEPORT_BPF = 68

LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
LOAD_BYTE = 0x30  # BPF_LD | BPF_B | BPF_ABS
MODULO = 0x94  # BPF_ALU | BPF_MOD | BPF_K
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K
RETURN_ACCUMULATOR = 0x16  # BPF_RET | BPF_A

RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM: what is loaded from there is a random number
TCP_FLAGS = 13  # where they are in the header
SYN, ACK = 0x02, 0x10
WHOLE = 0xFFFFFFFF


class Instruction(NamedTuple):
    """One instruction; ``if_true`` and ``if_false`` are how many to skip."""

    code: int
    k: int = 0
    if_true: int = 0
    if_false: int = 0


Program = tuple[Instruction, ...]

DROP_SYNS: Program = (
    Instruction(LOAD_BYTE, TCP_FLAGS),
    Instruction(AND, SYN | ACK),
    Instruction(JUMP_IF_EQUAL, SYN, 0, 1),
    Instruction(RETURN, 0),
    Instruction(RETURN, WHOLE),
)


def choose_among(indexes: Sequence[int]) -> Program:
    """Make a program that takes one of these sockets, at random, each as often as any other.

    A random number below their count is the index itself, unless that one is not to be taken: then it stands for
    one of those that are beyond the count. So the program is short when few are left out.
    """
    count = len(indexes)
    wanted = set(indexes)
    beyond = [index for index in sorted(wanted) if index >= count]
    left_out = [index for index in range(count) if index not in wanted]
    program = [Instruction(LOAD_WORD, RANDOM), Instruction(MODULO, count)]
    for index, instead in zip(left_out, beyond, strict=True):
        program += [Instruction(JUMP_IF_EQUAL, index, 0, 1), Instruction(RETURN, instead)]
    return (*program, Instruction(RETURN_ACCUMULATOR))


def steer(sock: socket.socket, program: Program | None) -> None:
    """Let a program choose for the group of a listening socket; None: the kernel's hash.

    Raises:
        OSError: the kernel cannot, or we may not.
    """
    if program is not None:
        _set(sock, SO_ATTACH_REUSEPORT_CBPF, program)
        return
    with contextlib.suppress(FileNotFoundError):  # there is none
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)


def drop_syns(sock: socket.socket, drop: bool = True) -> None:
    """Let nobody new in by a listening socket, or let them in again; who is turned away tries again after a second.

    Raises:
        OSError: the kernel cannot, or we may not.
    """
    if drop:
        _set(sock, SO_ATTACH_FILTER, DROP_SYNS)
        return
    with contextlib.suppress(FileNotFoundError):  # there is none
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def _set(sock: socket.socket, option: int, program: Program) -> None:
    code = b"".join(struct.pack("HBBI", each.code, each.if_true, each.if_false, each.k) for each in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and where they are
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("HP", len(program), ctypes.addressof(buffer)))
