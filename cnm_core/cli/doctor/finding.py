"""What the doctor says of one thing."""

from collections.abc import Callable
from dataclasses import dataclass, field

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and how it is.

    `status` is OK; WARNING where something that few need is missing; ERROR where networks
    fail, or something leaks. `mend` does what is safe to do about it and returns what that
    was, in words.
    """

    area: str
    subject: str
    status: str
    message: str
    advice: str = ""
    mend: Callable[[], str] | None = field(default=None, compare=False)
