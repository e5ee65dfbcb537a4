"""Tells systemd how the agent is (sd_notify(3)): a datagram to the socket that it names."""

import os
import socket

from cnm_core.cli.main import Failure


def notify(state: str) -> None:
    """Send assignments such as READY=1, a line each; nothing where nobody asked for them.

    Raises Failure where the socket cannot be reached.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if path[0] == "@":  # in Linux' abstract namespace
        path = "\0" + path[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagrams:
        try:
            datagrams.sendto(state.encode(), path)
        except OSError as error:
            raise Failure(
                f'cannot send to NOTIFY_SOCKET, "{path}": {error.strerror}',
                advice="unset it where nobody listens there",
            ) from None
