"""How benchmarks.load.propagation finds the worker at the other end of a connection."""

import os
import socket
from pathlib import Path

import pytest

from benchmarks.load.propagation import content_length, find_inode, owner
from benchmarks.load.sides import SideError


def test_the_owner_of_an_accepted_connection_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            with accepted:
                inode = find_inode(Path("/proc/net/tcp").read_text(), port, client.getsockname()[1])
                assert inode == str(os.fstat(accepted.fileno()).st_ino)
                assert owner([os.getpid()], inode) == os.getpid()


def test_a_connection_that_is_not_there_has_no_inode() -> None:
    assert find_inode("  sl  local_address rem_address\n", 80, 1) is None


def test_a_socket_of_another_process_has_no_owner_here() -> None:
    assert owner([os.getpid()], "0") is None


def test_content_length_in_any_case() -> None:
    assert content_length(b"HTTP/1.1 200 OK\r\nA: b\r\ncontent-LENGTH: 12") == 12


def test_a_head_without_a_length_is_refused() -> None:
    with pytest.raises(SideError):
        content_length(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked")
