"""Where cases are entered, in the order in which they run."""

from collections.abc import Callable
from dataclasses import dataclass

from trial import Trial


@dataclass(frozen=True)
class Case:
    """A case, and the plugins that a peer needs for it; `ours_only` where no other is asked."""

    name: str
    plugins: tuple[str, ...]
    run: Callable[[Trial], None]
    ours_only: bool

    @property
    def summary(self) -> str:
        return (self.run.__doc__ or "").strip().splitlines()[0].rstrip(".")


CASES: dict[str, Case] = {}


def case(
    *plugins: str, ours_only: bool = False
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Enter a function into CASES under its own name."""

    def enter(function: Callable[[Trial], None]) -> Callable[[Trial], None]:
        name = function.__name__
        CASES[name] = Case(name, plugins, function, ours_only)
        return function

    return enter
