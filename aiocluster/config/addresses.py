"""The addresses to listen on: the text forms of `bind`, and the records made from them."""

from collections import Counter
from ipaddress import IPv6Address
from typing import Any

from msgspec import Struct

from aiocluster.errors import ConfigError

ALLOWED_BIND = (
    "one or more of host:port, [IPv6]:port and :port (all interfaces), "
    "with a port from 0 (any free one) to 65535 and no two alike"
)

MAX_PORT = 65535

# Characters that show a URL, a path, a user or a bare IPv6 address in place of a host.
_NOT_IN_A_HOST = frozenset(":/[]@?#,")

# The beginnings by which other servers recognise the path of a Unix socket.
_OF_A_UNIX_SOCKET = ("unix:", "/", "./")


class Address(Struct, frozen=True):
    """An address to listen on; an empty host means all interfaces, port 0 any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return the form that `bind` takes."""
        return f"{self._bracketed}:{self.port}"

    def url(self) -> str:
        """Return the URL to open in a browser, always with a host, so that it can be clicked."""
        return f"http://{self._bracketed or '0.0.0.0'}:{self.port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def addresses_from(value: Any) -> tuple[Address, ...]:
    """Return the addresses of `bind`, one text or a list; raise ConfigError if one is invalid."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts:
        raise _refused(value)
    addresses = tuple(_address_from(text) for text in texts)
    # Port 0 is a new port each time, so the same host may have it several times.
    counts = Counter(address for address in addresses if address.port)
    if any(count > 1 for count in counts.values()):
        raise _refused(value)
    return addresses


def _address_from(text: Any) -> Address:
    """Return the Address that `text` means; an Address is returned as it is."""
    if isinstance(text, Address):
        return text
    if not isinstance(text, str):
        raise _refused(text)
    host, colon, port = text.rpartition(":")
    if not colon or not _is_port(port):
        raise _refused(text)
    return Address(_host_from(host, text), int(port))


def _is_port(text: str) -> bool:
    """Return True if `text` is a port; int() alone would also take "+80", " 80" and "8_0"."""
    return text.isascii() and text.isdigit() and len(text) <= len("65535") and int(text) <= MAX_PORT


def _host_from(host: str, text: str) -> str:
    """Check and return `host`, a part of `text`; an IPv6 address without its brackets.

    IPv6 addresses are normalised, so that two spellings of one address are found.
    """
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            raise _refused(text) from None
    if not host.isprintable() or any(c.isspace() or c in _NOT_IN_A_HOST for c in host):
        raise _refused(text)
    return host


def _refused(value: Any) -> ConfigError:
    if isinstance(value, str) and value.startswith(_OF_A_UNIX_SOCKET):
        return ConfigError(
            f"bind: {value!r}: Unix sockets cannot be served yet; give host:port, such as"
            " 127.0.0.1:8000"
        )
    return ConfigError(f"bind: {value!r} is not allowed; give {ALLOWED_BIND}")
