"""What counts as left behind, decided from two lists of facts."""

import pytest

from aiocluster.zygote.leftovers import (
    Descriptor,
    Holdings,
    Socket,
    fallback_note,
    left_behind,
    listed,
    mib,
)


def stream(peer: str | None, *, listens: bool = False, local: str = "10.0.0.1:5000") -> Socket:
    return Socket(is_stream=True, listens=listens, local=local, peer=peer)


def holding(**descriptors: Descriptor) -> Holdings:
    """Return holdings of descriptors alone: fd7=... is number 7."""
    return Holdings({int(name[2:]): one for name, one in descriptors.items()})


CONNECTION = Descriptor("socket:[10]", stream("10.0.0.9:6379"))
PAIR = Descriptor("socket:[11]", stream(""))
OTHER_END = Descriptor("socket:[12]", stream(""))
EPOLL = Descriptor("anon_inode:[eventpoll]")

FOUND: list[tuple[Descriptor, str]] = [
    (CONNECTION, "a connection to 10.0.0.9:6379 (descriptor 7)"),
    (
        Descriptor("socket:[10]", stream("/run/postgresql/.s.PGSQL.5432")),
        "a connection to /run/postgresql/.s.PGSQL.5432 (descriptor 7)",
    ),
    (
        Descriptor("socket:[10]", stream(None, listens=True, local="0.0.0.0:9100")),
        "a listening socket on 0.0.0.0:9100 (descriptor 7)",
    ),
    (PAIR, "a socket pair (descriptor 7)"),
    (EPOLL, "an event loop (descriptor 7)"),
    (Descriptor("anon_inode:[eventfd]"), "an eventfd (descriptor 7)"),
    (Descriptor("anon_inode:[io_uring]"), "an io_uring (descriptor 7)"),
    (Descriptor("anon_inode:inotify"), "an inotify (descriptor 7)"),
    (Descriptor("anon_inode:[timerfd]"), "a timerfd (descriptor 7)"),
    (Descriptor("/srv/shop.db", is_sqlite=True), "the SQLite database /srv/shop.db (descriptor 7)"),
    (Descriptor("/dev/nvidia0"), "/dev/nvidia0 (descriptor 7)"),
]

HARMLESS = [
    Descriptor("socket:[10]", Socket(is_stream=False, listens=False, local="", peer="/dev/log")),
    Descriptor("socket:[10]", stream(None)),  # neither connected nor listening
    Descriptor("pipe:[11]"),
    Descriptor("anon_inode:[pidfd]"),
    Descriptor("anon_inode:[signalfd]"),
    Descriptor("/srv/access.log"),
    Descriptor("/dev/urandom"),
]


@pytest.mark.parametrize(("one", "named"), FOUND, ids=[one.target for one, _ in FOUND])
def test_what_no_fork_survives_is_found_and_named(one: Descriptor, named: str) -> None:
    """With its number, and the address that tells what it is."""
    assert left_behind(Holdings(), holding(fd7=one)) == [named]


@pytest.mark.parametrize("one", HARMLESS, ids=repr)
def test_what_a_fork_survives_is_not_found(one: Descriptor) -> None:
    """Of a syslog socket, a pipe or a file each process may have a copy."""
    assert left_behind(Holdings(), holding(fd7=one)) == []


@pytest.mark.parametrize("one", [one for one, _ in FOUND], ids=lambda one: one.target)
def test_what_was_there_before_does_not_count(one: Descriptor) -> None:
    """Only the import's own doing sends it to the workers."""
    assert left_behind(holding(fd7=one), holding(fd7=one)) == []


def test_a_duplicate_of_a_socket_that_was_there_does_not_count() -> None:
    """A logging handler may hold the program's connection under a further number."""
    assert left_behind(holding(fd7=CONNECTION), holding(fd7=CONNECTION, fd9=CONNECTION)) == []


def test_a_number_that_now_is_another_socket_counts() -> None:
    """The import closed one and opened one, and the kernel gave it the same number."""
    other = Descriptor("socket:[99]", stream("10.0.0.9:5432"))

    assert left_behind(holding(fd7=CONNECTION), holding(fd7=other)) == [
        "a connection to 10.0.0.9:5432 (descriptor 7)"
    ]


def test_the_descriptors_of_a_loop_are_one_finding() -> None:
    """Its epoll, what wakes it, and its ring say the same; a connection beside it does not."""
    after = holding(
        fd4=EPOLL,
        fd5=PAIR,
        fd6=OTHER_END,
        fd7=Descriptor("anon_inode:[io_uring]"),
        fd8=Descriptor("anon_inode:inotify"),
        fd9=CONNECTION,
    )

    assert left_behind(Holdings(), after) == [
        "a connection to 10.0.0.9:6379 (descriptor 9)",
        "an event loop (descriptors 4, 5, 6, 7)",
        "an inotify (descriptor 8)",
    ]


def test_a_gpu_is_named_once_for_each_device() -> None:
    """CUDA opens the same one many times."""
    gpu, control = Descriptor("/dev/nvidia0"), Descriptor("/dev/nvidiactl")

    assert left_behind(Holdings(), holding(fd5=control, fd6=gpu, fd7=gpu)) == [
        "/dev/nvidiactl (descriptor 5)",
        "/dev/nvidia0 (descriptors 6, 7)",
    ]


def test_a_thread_and_a_child_are_found_by_name() -> None:
    """Those that ran before the import are somebody else's."""
    before = Holdings(threads={1: "MainThread"}, children={11: "sleep 5"})
    after = Holdings(
        threads={1: "MainThread", 2: "flusher"}, children={11: "sleep 5", 12: "SyncManager-1"}
    )

    assert left_behind(before, after) == ["thread 'flusher'", "child process 12 (SyncManager-1)"]


def test_an_sqlite_connection_without_a_file_is_found() -> None:
    """One in memory, or to a file that is empty yet, shows in no descriptor."""
    before, after = Holdings(sqlite=frozenset({1})), Holdings(sqlite=frozenset({1, 2}))

    assert left_behind(before, after) == ["an sqlite3 connection"]
    assert left_behind(after, after) == []


def test_an_sqlite_connection_is_named_once() -> None:
    """The file says more than the object."""
    after = Holdings({7: Descriptor("/a.db", is_sqlite=True)}, sqlite=frozenset({2}))

    assert left_behind(Holdings(), after) == ["the SQLite database /a.db (descriptor 7)"]


def test_a_note_is_one_line_however_much_was_found() -> None:
    """A pool of a thousand connections does not fill the log."""
    names = [f"thread 'pool-{number}'" for number in range(1000)]

    text = listed(names)

    assert text.startswith("thread 'pool-0', ")
    assert text.endswith("thread 'pool-7', 992 more")


def test_the_note_names_the_find_its_cost_and_the_ways_out() -> None:
    """All that is needed to decide, in the one warning that there is."""
    note = fallback_note("shop:app", ["thread 'flusher'"], 90 * 2**20)

    for part in ("shop:app", "thread 'flusher'", "about 90 MiB more each"):
        assert part in note
    for way_out in ("factory", "on_startup", "preload=False", "preload=True"):
        assert way_out in note
    assert "\n" not in note


@pytest.mark.parametrize(("count", "text"), [(0, "1"), (2**20, "1"), (2**20 * 3 // 2 + 1, "2")])
def test_a_cost_is_told_in_whole_mib(count: int, text: str) -> None:
    """An import is never free."""
    assert mib(count) == f"about {text} MiB"
