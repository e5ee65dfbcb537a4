"""What can go wrong, each with the code that a CNI runtime reads.

Codes 1 to 99 are the CNI specification's ("Error", spec 1.1.0; 8 is used by its
reference library only); 100 and up are this project's own.
"""

from errno import EMFILE, ENFILE, EPERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_OPEN_FILES = "raise the runtime's limit of open files (ulimit -n), or fs.file-max"
_ADVICE = {
    EPERM: "the plugin runs as root, with CAP_NET_ADMIN and CAP_SYS_ADMIN",
    EMFILE: _OPEN_FILES,
    ENFILE: _OPEN_FILES,
}


def advice(errno: int | None) -> str:
    """What to do about an errno, whatever it was that the kernel refused; "" of most."""
    return _ADVICE.get(errno or 0, "")


class Error(Exception):
    """A failure with a code, a message that names the culprit, and what to do about it."""

    code = 999

    def __init__(self, msg: str, *, details: str = "") -> None:
        super().__init__(msg)
        self.msg = msg
        self.details = details


class IncompatibleVersion(Error):
    """The configuration's cniVersion, or the verb at that version, is not supported."""

    code = 1


class UnsupportedField(Error):
    """A key of the configuration cannot be honoured; the message has key and value."""

    code = 2


class InvalidEnvironment(Error):
    """A CNI_* variable is missing or malformed; the message names it."""

    code = 4


class IOFailure(Error):
    """The configuration could not be read from stdin."""

    code = 5


class DecodingFailure(Error):
    """A document is not JSON, or not of the shape that its kind demands."""

    code = 6


class InvalidNetworkConfig(Error):
    """A value of the configuration is wrong; the message names key and value."""

    code = 7


class InvalidNetNS(Error):
    """CNI_NETNS is not a network namespace that an interface may be put into."""

    code = 8


class TryAgainLater(Error):
    """Something transient stands in the way; the runtime should call again."""

    code = 11


class NotAvailable(Error):
    """The plugin cannot serve ADD at the moment."""

    code = 50


class KernelRefused(Error):
    """The kernel answered a request with an errno."""

    code = 100

    def __init__(self, errno: int, msg: str, *, details: str = "") -> None:
        super().__init__(msg, details=details)
        self.errno = errno


class StateFailure(Error):
    """A state file cannot be read, written or understood; the message has its path."""

    code = 101


class Damaged(StateFailure):
    """A state file that is there and makes no sense, whenever it is read."""


class PoolExhausted(Error):
    """No address is left in a range set."""

    code = 102


class AddressInUse(Error):
    """The address, or an address for this attachment, is already allocated."""

    code = 103


class InterfaceExists(Error):
    """The interface to be made is already there."""

    code = 104


class Drifted(Error):
    """CHECK found differences between record, previous result and kernel."""

    code = 105


class DelegateFailed(Error):
    """A delegated plugin failed without an error object of its own."""

    code = 106


class Several(Error):
    """Some of several independent steps failed; all others were done."""

    code = 107


class ClaimConflict(Error):
    """A host of the cluster says that addresses are its own which are another host's."""

    code = 108


class Reported(Error):
    """An error object of another plugin, passed on as it came."""

    def __init__(self, code: int, msg: str, *, details: str = "") -> None:
        super().__init__(msg, details=details)
        self.code = code


def undo(step: "Callable[..., None]", *arguments: object) -> None:
    """Do a step that undoes something that failed, as far as it can be done."""
    try:
        step(*arguments)
    except (Error, OSError):
        pass  # the failure that is being undone says more; DEL undoes the rest


def attempt(
    failures: list[Error], step: "Callable[..., object]", *arguments: object, **named: object
) -> None:
    """Do one of several independent steps; if it fails, that is for `raise_all` to tell."""
    try:
        step(*arguments, **named)
    except Error as error:
        failures.append(error)


def raise_all(failures: list[Error]) -> None:
    """Raise what went wrong in steps that went on past each other's failures."""
    different = list({error.msg: error for error in failures}.values())
    if len(different) == 1:
        raise different[0]
    if different:
        details = dict.fromkeys(error.details for error in different if error.details)
        raise Several("; ".join(error.msg for error in different), details="; ".join(details))
