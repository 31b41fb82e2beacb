"""Addresses of Redis: redis://, rediss:// and unix://.

    redis://[user:password@]host[:port][/database]      plain TCP
    rediss://[user:password@]host[:port][/database]     TLS, always verified
    unix://[user:password@]/path/to/socket[?db=database]

User and password are percent-decoded. No error text repeats the address: it may
hold a password.
"""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_DEFAULT_PORT = 6379
_DATABASE_MAX = 65_535
# sockaddr_un on Linux: 108 bytes with the closing NUL.
SOCKET_PATH_MAX_BYTES = 107


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is and who we are there.

    Attributes:
        host: Empty when `socket_path` says where it is.
        socket_path: A UNIX socket, or empty.
        database: 0 and up.
        user: Empty: Redis' default user.
        password: Empty: no AUTH is sent.
    """

    host: str
    port: int
    socket_path: str
    is_tls: bool
    database: int
    user: str
    password: str = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """Read an address from its URL.

        Raises:
            ValueError: says what is wrong with it, without repeating it.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            # urlsplit quotes what it could not read, and that may be a password
            # with an unescaped "/" or "#" in it.
            raise ValueError("a Redis URL has a host and a port from 1 to 65535") from error
        if parts.fragment:
            raise ValueError("a Redis URL has no fragment; write # in a password as %23")
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if user and not password:
            raise ValueError("a Redis URL with a user has a password too: user:password@")
        if parts.scheme == "unix":
            path, database = _socket(parts)
            return cls("", 0, path, False, database, user, password)
        if parts.scheme not in ("redis", "rediss"):
            raise ValueError("a Redis URL begins with redis://, rediss:// or unix://")
        if not parts.hostname:
            raise ValueError("a Redis URL names a host: redis://host:port/database")
        if port == 0:
            raise ValueError("a Redis URL has a port from 1 to 65535")
        if parts.query:
            raise ValueError("a redis:// URL has no ?query: the database is its path")
        return cls(
            host=parts.hostname,
            port=port or _DEFAULT_PORT,
            socket_path="",
            is_tls=parts.scheme == "rediss",
            database=_database(parts.path.removeprefix("/")),
            user=user,
            password=password,
        )


def _socket(parts: SplitResult) -> tuple[str, int]:
    path = unquote(parts.path)
    if parts.hostname or not path.startswith("/"):
        raise ValueError("a unix:// URL has an absolute path: unix:///path/to/socket")
    if len(path.encode()) > SOCKET_PATH_MAX_BYTES or "\0" in path:
        raise ValueError(f"a UNIX socket's path has at most {SOCKET_PATH_MAX_BYTES} bytes")
    query = parse_qsl(parts.query, keep_blank_values=True)
    if [name for name, _ in query] not in ([], ["db"]):
        raise ValueError("a unix:// URL has no query but ?db=database")
    return path, _database(query[0][1] if query else "")


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= _DATABASE_MAX):
        raise ValueError(f"a Redis database is a number from 0 to {_DATABASE_MAX}")
    return int(text)
