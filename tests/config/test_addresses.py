import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiocluster.config.addresses import Address, addresses_from
from aiocluster.errors import ConfigError

HOST_CHARACTERS = st.characters(
    categories=["L", "N"], include_characters="-._", exclude_characters="\x00"
)
HOSTS = st.text(HOST_CHARACTERS) | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
ADDRESSES = st.builds(Address, HOSTS, st.integers(0, 65535))


@given(ADDRESSES)
def test_what_an_address_prints_reads_back_the_same(address: Address) -> None:
    """An address that a log shows can be pasted into `bind`."""
    assert addresses_from(str(address)) == (address,)


@given(st.text() | st.from_regex(r"\[?[0-9a-z:.]*\]?:[0-9]*"))
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    """No text makes the reader fail in another way."""
    with contextlib.suppress(ConfigError):
        (address,) = addresses_from(text)
        assert 0 <= address.port <= 65535
        assert addresses_from(str(address)) == (address,)


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        ("127.0.0.1:8000", Address("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        ("localhost:0", Address("localhost", 0), "http://localhost:0"),
        ("[::1]:8000", Address("::1", 8000), "http://[::1]:8000"),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1), "http://[fe80::1%eth0]:1"),
        (":65535", Address("", 65535), "http://0.0.0.0:65535"),
    ],
)
def test_each_form_is_read_and_shown_as_a_url(text: str, address: Address, url: str) -> None:
    """host:port, [IPv6]:port and :port are read; the URL always has a host to click on."""
    assert addresses_from(text) == (address,)
    assert address.url() == url


@pytest.mark.parametrize("path", ["unix:/run/app.sock", "/run/app.sock", "./app.sock"])
def test_the_path_of_a_unix_socket_is_refused_as_one(path: str) -> None:
    """With what to give in its place."""
    with pytest.raises(ConfigError, match=f"{path}': Unix sockets cannot be served yet; give host"):
        addresses_from(path)


def test_several_addresses_keep_their_order() -> None:
    """The first address given is the first one shown."""
    addresses = addresses_from(["b:2", "a:1"])
    assert addresses == (Address("b", 2), Address("a", 1))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "localhost",
        "8000",
        "localhost:",
        "localhost:http",
        "localhost:65536",
        "localhost:-1",
        "localhost:+80",
        "localhost: 80",
        "localhost:8_0",
        "localhost:٨٠",
        "localhost:" + "9" * 5000,
        "::1",
        "::1:8000",
        "[::1]",
        "[localhost]:80",
        "[]:80",
        "[::1:80",
        "http://localhost:80",
        "user@localhost:80",
        "local host:80",
        "a:1,b:2",
        [],
        (),
        ["a:1", "b"],
        ["a:1", 2],
        8000,
        None,
        True,
        b"a:1",
        {"a:1": "b:2"},
    ],
)
def test_what_is_no_address_is_refused_with_the_allowed_forms(value: Any) -> None:
    """The error names the setting and shows every form that would have been right."""
    with pytest.raises(ConfigError, match=r"^bind: .* is not allowed.*host:port, \[IPv6\]:port"):
        addresses_from(value)


@pytest.mark.parametrize("twice", [["a:1", "a:1"], [":1", "b:2", ":1"], ["[::1]:1", "[0::1]:1"]])
def test_an_address_given_twice_is_refused(twice: list[str]) -> None:
    """The second one could not be opened; better told here than by the system."""
    with pytest.raises(ConfigError, match="no two alike"):
        addresses_from(twice)


def test_port_0_may_be_given_twice() -> None:
    """Each port 0 is another free port."""
    assert len(addresses_from(["a:0", "a:0"])) == 2
