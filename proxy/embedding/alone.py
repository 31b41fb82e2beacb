"""An embedding process without a supervisor: `recollect embed-server`."""

import ipaddress
import os
from urllib.parse import urlsplit

from config.load import SettingsError, data_folder
from config.settings import Settings
from proxy import logs
from proxy.embedding.start import ONE_BLAS_THREAD, EmbeddingStart, is_installed


def serve_alone(settings: Settings) -> int:
    """Serve until told to end by a signal.

    Returns:
        The exit code: 0 after a signal, 1 when it could not start.

    Raises:
        SettingsError: Something is missing that it cannot do without.
    """
    address = settings.semantic.address
    mistakes = []
    if not is_installed():
        mistakes.append('the extra "semantic" is not installed: make install EXTRAS=semantic')
    if not address:
        mistakes.append(
            "semantic.address: not set; should be where to listen, given by --listen, "
            "RECOLLECT_SEMANTIC__ADDRESS or the settings file"
        )
    elif settings.semantic.token is None and not _is_private(address):
        mistakes.append(
            f"semantic.token: not set; should be set to listen on {address}, as whoever reaches it "
            "can ask what was asked"
        )
    if not settings.redis.url:
        mistakes.append(
            "redis.url: not set; should be the Redis that the workers store in, given by --redis, "
            "RECOLLECT_REDIS__URL or the settings file"
        )
    if mistakes:
        raise SettingsError(mistakes)
    logs.configure(settings.log.level)
    folder = data_folder(settings, os.environ)
    os.environ.update(ONE_BLAS_THREAD)  # read when numpy is imported, as it is now
    from proxy.embedding.process import serve

    return serve(
        EmbeddingStart(
            settings=settings, redis_url=settings.redis.url, folder=folder, address=address
        )
    )


def _is_private(address: str) -> bool:
    """Whether only this machine can reach `address`."""
    host = urlsplit(address).hostname
    if host is None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
