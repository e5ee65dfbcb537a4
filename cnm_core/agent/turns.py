"""When a thread of the agent that follows a part of the store has something to do."""

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cnm_core.store.shared import Compacted

if TYPE_CHECKING:
    from cnm_core.store.shared import SharedStore


def turns(
    store: "SharedStore", prefix: str, stopping: threading.Event, seconds: float
) -> Iterator[bool]:
    """Yield at the start, whenever keys below a prefix change, and every so many seconds.

    True says that the store is to be read: at the start, after changes, and where the store
    has forgotten some. Ends within a second of `stopping`, or when the store has answered.
    Raises Unreachable where the watch breaks off.
    """
    while not stopping.is_set():
        revision = store.range(prefix).revision
        yield True
        last = time.monotonic()
        try:
            for changes in store.watch(prefix, revision):
                if stopping.is_set():
                    return
                if changes or time.monotonic() - last >= seconds:
                    yield bool(changes)
                    last = time.monotonic()
        except Compacted:
            continue
