from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiocluster.errors import ConfigError
from aiocluster.policies.sticky import Sticky, sticky
from tests.support.candidates import turns, workers

CLIENTS = [number.to_bytes(4, "big") for number in range(20_000)]
SLOTS = range(8)


def homes(slots: Iterable[int], policy: Sticky | None = None) -> dict[bytes, int]:
    """Return the slot of each client where workers in these slots are there."""
    policy, candidates = policy or sticky(), workers(*slots)
    return {client: policy.choose(candidates, client).slot for client in CLIENTS}


def test_a_client_stays_on_its_worker() -> None:
    """Each time, and also if the policy is made anew: nothing is remembered."""
    policy = sticky()
    assert homes(SLOTS, policy) == homes(SLOTS, policy) == homes(SLOTS)


@pytest.mark.parametrize("number", [1, 2, 3, 8, 50])
def test_each_slot_has_its_share_of_the_clients(number: int) -> None:
    """Even, within five standard deviations of what chance gives."""
    shares, even = Counter(homes(range(number)).values()), len(CLIENTS) / number
    assert all(abs(shares[slot] - even) <= 5 * even**0.5 for slot in range(number))


@pytest.mark.parametrize("gone", SLOTS)
def test_when_one_goes_only_its_own_clients_move(gone: int) -> None:
    """That is 1 of n, within 2 %; and they go to all of the others alike."""
    before = homes(SLOTS)
    after = homes(slot for slot in SLOTS if slot != gone)

    moved = [client for client in CLIENTS if before[client] != after[client]]

    assert {before[client] for client in moved} == {gone}
    assert abs(len(moved) / len(CLIENTS) - 1 / 8) <= 0.02
    taken_in = Counter(after[client] for client in moved)
    assert all(abs(taken_in[slot] / len(moved) - 1 / 7) <= 0.04 for slot in SLOTS if slot != gone)


@pytest.mark.parametrize("number", [1, 2, 7, 15, 16, 40])
def test_when_one_comes_clients_move_only_to_it(number: int) -> None:
    """It takes its share, and nobody changes between two that were there before."""
    before, after = homes(range(number)), homes(range(number + 1))

    moved = [client for client in CLIENTS if before[client] != after[client]]

    assert {after[client] for client in moved} == {number}
    assert abs(len(moved) / len(CLIENTS) - 1 / (number + 1)) <= 0.02


@given(st.sets(st.integers(0, 40), min_size=1), st.sets(st.integers(0, 40)), st.binary(min_size=1))
def test_whoever_comes_and_goes_a_client_follows_its_highest_score(
    slots: set[int], others: set[int], client: bytes
) -> None:
    """Its worker among many is its worker among any of them where that one is."""
    policy = sticky("cookie:sid")
    among_all = turns(policy, workers(*sorted(slots | others)), 1, client)[0]
    among_some = turns(policy, workers(*sorted(slots)), 1, client)[0]
    assert among_some == among_all or among_all not in slots


def test_a_replaced_worker_keeps_its_clients() -> None:
    """Clients belong to slots: that of a reload or a crash is another object, with another id."""
    policy, old, new = sticky(), workers(0, 1, 2), workers(0, 1, 2)
    for worker in new:
        worker.worker_id += 100
    for client in CLIENTS[:1000]:
        assert policy.choose(new, client).slot == policy.choose(old, client).slot


def test_of_two_in_one_slot_the_new_one_is_chosen() -> None:
    """While a reload replaces a worker; the old one is about to go."""
    policy, candidates = sticky(), workers(0, 1, 1, 2)
    chosen = [policy.choose(candidates, client) for client in CLIENTS[:1000]]
    assert {id(worker) for worker in chosen} == {id(candidates[at]) for at in (0, 2, 3)}


def test_it_is_the_same_on_every_machine() -> None:
    """Whatever its byte order or version: clients keep their workers over an upgrade."""
    policy, candidates = sticky("cookie:sid"), workers(*range(100))
    chosen = [turns(policy, candidates, 1, b"client %d" % n)[0] for n in range(8)]
    assert chosen == [63, 61, 90, 80, 88, 29, 51, 49]


def test_a_client_is_an_ipv6_network() -> None:
    """By /64 unless it is set otherwise."""
    network, candidates = bytes(range(1, 9)), workers(*range(100))
    hosts = [network + bytes([*range(7), host]) for host in range(50)]

    def served(policy: Sticky) -> set[int]:
        return {policy.choose(candidates, host).slot for host in hosts}

    assert len(served(sticky())) == 1
    assert len(served(sticky(ipv6_prefix=56))) == 1
    assert len(served(sticky(ipv6_prefix=128))) > 10


def test_an_ipv4_client_of_an_ipv6_socket_is_an_ipv4_client() -> None:
    """It keeps its worker, by whichever listener it comes."""
    policy, candidates = sticky(), workers(*range(100))
    for client in CLIENTS[:100]:
        mapped = bytes(10) + b"\xff\xff" + client
        assert policy.choose(candidates, mapped) is policy.choose(candidates, client)


def test_what_is_no_address_is_not_cut() -> None:
    """A session id of 16 bytes is no IPv6 address."""
    policy, candidates = sticky("cookie:sid"), workers(*range(100))
    ids = [b"user-2026-%06d" % number for number in range(50)]
    assert len({policy.choose(candidates, sid).slot for sid in ids}) > 10


def test_clients_nothing_is_known_of_are_served_in_turn() -> None:
    """Those of a Unix socket have no address: they are not one client."""
    assert turns(sticky(), workers(0, 1, 2), 5, b"") == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    "by", ["ip", "header:x-session-id", "header:X-Id", "cookie:sid", "path:1", "path:99"]
)
def test_it_says_what_it_goes_by(by: str) -> None:
    """The primary looks for that in a connection's first bytes."""
    policy = sticky(by)
    assert (policy.affinity_by, policy.strict) == (by, True)


@pytest.mark.parametrize(
    "by",
    [
        *("", "IP", "ip:", "host", "header", "header:", "header:a b", "cookie:", "cookie:a;b"),
        *(
            "path",
            "path:",
            "path:0",
            "path:100",
            "path:-1",
            "path:01",
            "path:x",
            "path:1 ",
            "path:\u0661",
        ),
        *("ip\n", None, 1, b"ip"),
    ],
)
def test_what_it_cannot_go_by_is_refused(by: str) -> None:
    """With the value, and with what is allowed, when it is made."""
    with pytest.raises(ConfigError) as error:
        sticky(by)
    assert f"by={by!r} is not allowed; give ip, header:NAME" in str(error.value)


@pytest.mark.parametrize("prefix", [0, -1, 129, 64.0, "64", True, None])
def test_what_is_no_prefix_is_refused(prefix: int) -> None:
    """With the value."""
    with pytest.raises(ConfigError, match=f"ipv6_prefix={prefix!r} is not allowed; give 1 to 128"):
        sticky(ipv6_prefix=prefix)
