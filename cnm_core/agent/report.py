"""What the agent says of itself: lines of JSON on stderr, health, and Prometheus metrics."""

import asyncio
import json
import sys
import threading
import time
from dataclasses import dataclass, field

_REQUEST_SECONDS = 5


@dataclass
class Report:
    """The agent's state in numbers. `mended` counts entries that were missing or stale."""

    store_up: bool = False
    revision: int = 0
    mended: int = 0
    endpoints: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, event: str, **fields: object) -> None:
        """One line: when, what, and more."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields})
        with self._lock:
            print(line, file=sys.stderr, flush=True)

    def metrics(self) -> str:
        """The numbers in Prometheus' text format."""
        lines = [
            "# TYPE cnm_agent_store_up gauge",
            f"cnm_agent_store_up {int(self.store_up)}",
            "# TYPE cnm_agent_store_revision counter",
            f"cnm_agent_store_revision {self.revision}",
            "# TYPE cnm_agent_mended_entries_total counter",
            f"cnm_agent_mended_entries_total {self.mended}",
            "# TYPE cnm_agent_endpoints gauge",
        ]
        # Names of networks have no character that the format would want escaped.
        lines += [
            f'cnm_agent_endpoints{{network="{name}"}} {count}'
            for name, count in sorted(self.endpoints.items())
        ]
        return "\n".join([*lines, ""])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one HTTP request: GET /metrics, or GET /healthz, which is 503 without a store."""
        try:
            request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _REQUEST_SECONDS)
            target = request.split(b" ", 2)[1]
            status, body = "404 Not Found", "there are /metrics and /healthz\n"
            if target == b"/metrics":
                status, body = "200 OK", self.metrics()
            elif target == b"/healthz":
                status = "200 OK" if self.store_up else "503 Service Unavailable"
                body = "ok\n" if self.store_up else "the store does not answer\n"
            head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            pass  # whoever asked has gone, or does not speak HTTP
        finally:
            writer.close()
