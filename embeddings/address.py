"""Where an embedding process listens: one form for the process and for its clients.

`unix:///run/recollect/embeddings.sock` on the same host, `http://gpu-host:8200` elsewhere. Imports
nothing heavy: workers use it.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

_SOCKET_PATH_BYTES = 107  # sun_path holds 108 with the zero at its end (Linux)


@dataclass(frozen=True, slots=True)
class Address:
    """A UNIX socket or a TCP port.

    Attributes:
        socket_path: The socket's file; "" for TCP.
        host: A name or IP address, without brackets; "" for a UNIX socket.
        port: 0 when listening means: whichever is free.
    """

    socket_path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read `unix:///path` or `http://host:port`.

        Raises:
            ValueError: It is neither.
        """
        parts = urlsplit(url)
        if parts.query or parts.fragment:
            raise ValueError(f"{url!r} has more than an address")
        if parts.scheme == "unix":
            if parts.netloc or not parts.path.startswith("/"):
                raise ValueError(f"{url!r} needs an absolute path: unix:///path")
            if len(parts.path.encode()) > _SOCKET_PATH_BYTES:
                raise ValueError(f"{url!r} is too long for a socket's path")
            return cls(socket_path=parts.path)
        if parts.scheme != "http" or not parts.hostname or parts.port is None:
            raise ValueError(f"{url!r} is neither unix:///path nor http://host:port")
        if parts.path not in ("", "/") or parts.username is not None:
            raise ValueError(f"{url!r} has more than a host and a port")
        return cls(host=parts.hostname, port=parts.port)

    def __str__(self) -> str:
        """Return the address as `parse` reads it."""
        if self.socket_path:
            return f"unix://{self.socket_path}"
        # RFC 3986 §3.2.2: IPv6 in brackets.
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"
