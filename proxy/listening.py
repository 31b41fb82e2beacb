"""Listening sockets, bound once by the supervisor and inherited by every worker."""

import socket

BACKLOG = 2048
"""Connections that may wait for a worker, as far as the kernel's limit (somaxconn) allows."""


class ListenError(Exception):
    """The address cannot be listened on."""


def listen(host: str, port: int) -> socket.socket:
    """Return a TCP socket listening on the first address `host` stands for.

    Raises:
        ListenError: No such host, no right to the port, or the port is in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(f"cannot listen on {_authority(host, port)}: {error.strerror}") from error
    try:
        # A new run need not wait until the connections of the one before have timed out.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen on {_authority(host, port)}: {error.strerror}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return `http://host:port` of a listening socket, with the port it really has."""
    host, port = listener.getsockname()[:2]
    return f"http://{_authority(host, port)}"


def _authority(host: str, port: int) -> str:
    # RFC 3986 §3.2.2: IPv6 in brackets.
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
