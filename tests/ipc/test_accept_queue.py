"""What who accepts connections must know."""

import socket

import pytest

from aiocluster.ipc.accept_queue import backlog_of, budget, reserved_fds, waiting_in


def test_the_backlog_is_counted() -> None:
    """It says how many would be accepted now, and how many are left after that."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        counts = [waiting_in(server)]
        clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
        counts.append(waiting_in(server))
        server.accept()[0].close()
        counts.append(waiting_in(server))
        for client in clients:
            client.close()

    assert counts == [0, 3, 2]


@pytest.mark.parametrize("backlog", [1, 77, 512])
def test_the_length_of_the_backlog_is_known(backlog: int) -> None:
    """Whoever listens once more on the socket must say it again."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:
        assert backlog_of(server) == backlog


@pytest.mark.parametrize(("limit", "reserved"), [(64, 8), (1024, 128), (2048, 256), (10**6, 256)])
def test_handlers_keep_an_eighth_of_the_descriptors(limit: int, reserved: int) -> None:
    """But no more than they are likely to need."""
    assert reserved_fds(limit) == reserved


@pytest.mark.parametrize(
    ("free", "spent"), [(-5, 0), (0, 0), (1, 1), (128, 128), (129, 64), (1000, 500)]
)
def test_half_of_much_room_is_spent_before_the_next_count(free: int, spent: int) -> None:
    """Near the limit every descriptor counts; beyond it there is nothing to spend."""
    assert budget(free) == spent
