# SPDX-License-Identifier: AGPL-3.0-or-later
"""The fixture of tests/conftest.py that keeps tests off the network."""

from __future__ import annotations

import socket

import pytest

ELSEWHERE = "192.0.2.1"  # an address for documentation (RFC 5737), which no host has


def test_connecting_to_another_machine_is_refused_and_not_mistaken_for_being_offline():
    with socket.socket() as client, pytest.raises(Exception, match="tried to connect") as refused:
        client.connect((ELSEWHERE, 80))
    assert not isinstance(refused.value, OSError)


def test_looking_up_a_name_is_refused():
    with pytest.raises(Exception, match="tried to look up"):
        socket.getaddrinfo("example.org", 443)


def test_this_machine_can_be_reached():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        assert client.getpeername() == server.getsockname()
