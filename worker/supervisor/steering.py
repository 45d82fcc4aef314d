"""Steering: who gets new connections, decided in the kernel. No privilege is needed.

A classic BPF program of a reuseport group returns the index of the socket that gets a SYN, where the kernel would take
one by a hash; an index that the group does not have leaves it to the hash.

A socket is sealed by binding it to a network interface that does not exist: no SYN finds it any more, so new clients
are refused, as if it were closed. But handshakes under way are finished, since they have found it already, and what is
in its queue stays there. (A socket filter that drops SYNs would do, too, but needs CAP_NET_ADMIN in newer kernels.)
Without CAP_NET_RAW a seal cannot be broken. A new socket can be bound beside sealed ones, and is of another group.

Facts of the kernel: net/core/sock_reuseport.c; net/core/filter.c; sock_bindtoindex_locked in net/core/sock.c;
inet_match and inet_lookup_listener in net/ipv4/inet_hashtables.c; include/uapi/linux/{filter,bpf_common}.h. The seal
takes Linux 5.7.
"""

import contextlib
import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

# Numbers of include/uapi/asm-generic/socket.h, for which the module socket has no names.
SO_ATTACH_REUSEPORT_CBPF = 51
SO_BINDTOIFINDEX = 62
SO_DETACH_REUSEPORT_BPF = 68

LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
MODULO = 0x94  # BPF_ALU | BPF_MOD | BPF_K
JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K
RETURN_ACCUMULATOR = 0x16  # BPF_RET | BPF_A

RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM: what is loaded from there is a random number
NOWHERE = 0x7FFFFFFF  # the index of no interface


class Instruction(NamedTuple):
    """One instruction; ``if_true`` and ``if_false`` are how many to skip."""

    code: int
    k: int = 0
    if_true: int = 0
    if_false: int = 0


Program = tuple[Instruction, ...]


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
    if program is None:
        with contextlib.suppress(FileNotFoundError):  # there is none
            sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
        return
    code = b"".join(struct.pack("HBBI", each.code, each.if_true, each.if_false, each.k) for each in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and where they are
    value = struct.pack("HP", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, value)


def seal(sock: socket.socket) -> None:
    """Let nobody new in by a listening socket; who is on the way still comes.

    The other sockets of a reuseport group must be sealed, too: one that is not goes on to share with them.

    Raises:
        OSError: the kernel cannot, or we may not.
    """
    sock.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, NOWHERE)
