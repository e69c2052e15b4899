import os
import socket

from aiocluster.worker.wires import Wires


def test_what_is_as_it_was_is_whole() -> None:
    """A shutdown is no matter of the descriptor; to read shows that."""
    one, other = socket.socketpair()
    with one, other:
        wires = Wires({"one": one.fileno()})
        wires.add({"other": other.fileno()})
        one.shutdown(socket.SHUT_RDWR)

        assert wires.broken() == []


def test_a_closed_descriptor_is_found() -> None:
    """Whether or not another file has its number by now."""
    one, other = socket.socketpair()
    with other:
        wires = Wires({"one": one.fileno(), "other": other.fileno()})
        fd = one.fileno()
        one.close()
        assert wires.broken() == ["one"]
        with socket.socket() as later:
            assert later.fileno() == fd
            assert wires.broken() == ["one"]


def test_a_descriptor_of_another_file_is_found() -> None:
    """What is sent there would be sent well, to nobody."""
    one, other = socket.socketpair()
    with one, other, open("/dev/null", "wb") as null:
        wires = Wires({"one": one.fileno(), "other": other.fileno()})
        os.dup2(null.fileno(), other.fileno())

        assert wires.broken() == ["other"]
