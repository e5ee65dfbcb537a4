"""Locks on files."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cnm_core.store.files import Lock


def test_held(tmp_path: Path) -> None:
    """Who asks whether a lock is held learns of its holder, and not of others who ask."""
    path = str(tmp_path / "lock")

    def is_held(_: int) -> bool:
        return Lock(path).is_held()

    assert not Lock(path).is_held()
    with ThreadPoolExecutor(2) as pool:
        with Lock(path):
            assert all(pool.map(is_held, range(10)))
        assert not any(pool.map(is_held, range(5000)))
