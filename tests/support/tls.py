"""TLS for tests: a certificate of localhost that nobody else trusts, and its key."""

import ssl
from pathlib import Path

_CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUdyQnfkaf0RhMCL/73r9rDrW4Ne8wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTE5MTIyMFoYDzIxMjYxMDI4
MTkxMjIwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQHZhT10j7xXMryOVZ2sKB3sgtxWw1QLaUmtDFVP4z16fSqg5aqK4Cr
+nwWEg5IvAWdaDA2FndEx0fScaRAZ96Wo28wbTAdBgNVHQ4EFgQUGVr9cv/XZo7R
kmV8RT9EhnwXSeYwHwYDVR0jBBgwFoAUGVr9cv/XZo7RkmV8RT9EhnwXSeYwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIhAInszWTvB1gc2Fp2AReXJdLGx+sDjcIw6UV5qetu+IfRAiAB
3t1p9jScoMdYPYnY6ErRywMmtQcSkt3Vh7P1CmdEcw==
-----END CERTIFICATE-----
"""

_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgwa0hniLXF8vN6Hub
a11PKvhXGYA3XKXEWhaxLCta40ehRANCAAQHZhT10j7xXMryOVZ2sKB3sgtxWw1Q
LaUmtDFVP4z16fSqg5aqK4Cr+nwWEg5IvAWdaDA2FndEx0fScaRAZ96W
-----END PRIVATE KEY-----
"""


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what a server needs, and a client that trusts it."""
    file = folder / "localhost.pem"
    file.write_text(_CERTIFICATE + _KEY)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=_CERTIFICATE)
    return server, client
