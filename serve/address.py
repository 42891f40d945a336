"""Where an endpoint listens. No Ray, so that a wrong address is found before anything else is done."""

import socket

from ..physics import InputError


def check_address(host: str, port: int) -> None:
    """Raise InputError where nothing can listen: Ray Serve's proxy would retry for ever, in a log nobody sees."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just released is free
            probe.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"host and port are {host!r} and {port}, which cannot be bound: {reason}; choose another with --host or --port"
        ) from None


def url_of(host: str, port: int) -> str:
    """What a client on this machine asks."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
