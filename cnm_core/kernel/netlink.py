"""Rtnetlink: messages, attributes, and a socket that reads every answer.

Encodes only what the drivers send; include/uapi/linux/netlink.h and rtnetlink.h have the
numbers. Several requests go out in one send: the kernel handles them in order, and goes
on after one that fails (netlink_rcv_skb, net/netlink/af_netlink.c), so that `request`
reads an answer for each before it raises the first error.
"""

from _socket import AF_NETLINK, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket
from _struct import Struct
from errno import EBADMSG
from posix import strerror

from cnm_core.errors import KernelRefused, advice
from cnm_core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 0x2, 0x3
NLMSGERR_ATTR_MSG = 1
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
NLA_TYPE_MASK, NLA_F_NESTED = 0x3FFF, 0x8000

_HEADER = Struct("=IHHII")
_ATTRIBUTE = Struct("=HH")
_I32 = Struct("=i")
U8, U16, U32 = Struct("=B"), Struct("=H"), Struct("=I")
# The kernel's largest message of a dump (netlink_dump), and more than any capped answer.
_BUFFER = 1 << 15
SO_SNDBUFFORCE = 32
# What is longer gets a larger send buffer; the usual one has some 200 KiB.
_LARGE = 1 << 17
# How many requests are answered before the answers are read: some 260 fill the socket's buffer
# (net.core.rmem_default), and those that find no room there are lost.
_TOGETHER = 128


class Request(Record):
    """One message to the kernel. `what` says in words what it asks for, for the error."""

    kind: int
    flags: int
    body: bytes
    what: str


def attribute(kind: int, payload: bytes) -> bytes:
    """A netlink attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(payload) + 4, kind) + payload + bytes(-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes.

    Without NLA_F_NESTED: rtnetlink's older attributes do not ask for it, and iproute2
    leaves it out too.
    """
    return attribute(kind, b"".join(attributes))


def string(kind: int, text: str) -> bytes:
    """A zero-terminated string attribute."""
    return attribute(kind, text.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """A 32-bit attribute in host order."""
    return attribute(kind, U32.pack(value))


def u16(kind: int, value: int) -> bytes:
    """A 16-bit attribute in host order."""
    return attribute(kind, U16.pack(value))


def u8(kind: int, value: int) -> bytes:
    """An 8-bit attribute."""
    return attribute(kind, U8.pack(value))


def attributes(data: bytes, at: int = 0) -> dict[int, bytes]:
    """The attributes in a message from an offset on, by kind; of repeated ones the last."""
    found: dict[int, bytes] = {}
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        found[kind & NLA_TYPE_MASK] = data[at + 4 : at + length]
        at += length + (-length % 4)
    return found


def repeated(data: bytes, wanted: int) -> list[bytes]:
    """The payloads of the attributes of one kind, for one that may be there several times."""
    found = []
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        if kind & NLA_TYPE_MASK == wanted:
            found.append(data[at + 4 : at + length])
        at += length + (-length % 4)
    return found


def text_of(payload: bytes) -> str:
    """The text of a zero-terminated string attribute."""
    return payload.rstrip(b"\0").decode("utf-8", "replace")


def encode(request: Request, sequence: int) -> bytes:
    """The bytes of a request, header first."""
    flags = request.flags | NLM_F_REQUEST
    return _HEADER.pack(len(request.body) + 16, request.kind, flags, sequence, 0) + request.body


class Socket:
    """A netlink socket in the namespace where it was opened; it stays there."""

    def __init__(self, protocol: int = 0, groups: int = 0) -> None:
        """`groups` is the bit mask of the multicast groups to listen to. Raises KernelRefused."""
        try:
            self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
            if groups:
                self._socket.bind((0, groups))
            for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(SOL_NETLINK, option, 1)
        except OSError as error:
            raise failure("open", error) from None
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def request(self, *requests: Request) -> list[bytes]:
        """Send the requests together; the first message that each got back, b"" for none.

        Raises KernelRefused for the first that failed, when all have been answered, or where
        an answer cannot be had: what was asked for may have been done then.
        """
        found: list[bytes] = []
        failure = None
        for at in range(0, len(requests), _TOGETHER):
            answers, refused = self._ask(requests[at : at + _TOGETHER])
            found += answers
            failure = failure or refused
        if failure is not None:
            raise failure
        return found

    def _ask(self, requests: tuple[Request, ...]) -> tuple[list[bytes], KernelRefused | None]:
        """The answers to requests sent at once, and the error for the first that failed."""
        first = self._sequence + 1
        self._send(requests)
        answers = [b""] * len(requests)
        failure = None
        waiting = len(requests)
        while waiting:
            for kind, flags, sequence, body in self._receive():
                index = sequence - first
                if not 0 <= index < len(requests):
                    continue
                if kind != NLMSG_ERROR:
                    answers[index] = answers[index] or body
                    continue
                waiting -= 1
                errno = -_I32.unpack_from(body)[0]
                if errno and failure is None:
                    failure = _refused(errno, requests[index], flags, body)
        return answers, failure

    def dump(self, request: Request) -> list[bytes]:
        """Send a request for a dump; the messages that it got back."""
        self._send((request,))
        found: list[bytes] = []
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if kind not in (NLMSG_ERROR, NLMSG_DONE):
                    found.append(body)
                    continue
                errno = -_I32.unpack_from(body)[0]
                if errno:
                    raise _refused(errno, request, flags, body)
                return found

    def fileno(self) -> int:
        """The file descriptor, to poll."""
        return self._socket.fileno()

    def events(self) -> list[tuple[int, bytes]]:
        """The next messages of the groups: (kind, body) each."""
        return [(kind, body) for kind, _, _, body in self._receive()]

    def _send(self, requests: "tuple[Request, ...]") -> None:
        out = []
        for request in requests:
            self._sequence += 1
            out.append(encode(request, self._sequence))
        self.send(b"".join(out))

    def send(self, messages: bytes) -> None:
        """Send messages as they are. Raises KernelRefused."""
        try:
            if len(messages) > _LARGE:
                self._socket.setsockopt(SOL_SOCKET, SO_SNDBUFFORCE, 2 * len(messages))
            self._socket.send(messages)
        except OSError as error:
            raise failure("send to", error) from None

    def _receive(self, flags: int = 0) -> "Iterator[tuple[int, int, int, bytes]]":
        """The next messages. With MSG_DONTWAIT raises BlockingIOError where there are none."""
        try:
            data = self._socket.recv(_BUFFER, flags)
        except BlockingIOError:
            raise
        except OSError as error:
            raise failure("receive from", error) from None
        at = 0
        while at + 16 <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            if length < 16:
                raise KernelRefused(EBADMSG, "the kernel sent a message without a header")
            yield kind, flags, sequence, data[at + 16 : at + length]
            at += length + (-length % 4)


def failure(verb: str, error: OSError) -> KernelRefused:
    """The error for a socket that the kernel refuses, whatever was to be asked by it."""
    return KernelRefused(
        error.errno or 0,
        f"cannot {verb} a netlink socket: {error.strerror}",
        details=advice(error.errno),
    )


def _refused(errno: int, request: Request, flags: int, body: bytes) -> KernelRefused:
    """The error for a negative answer, with the kernel's own explanation where it gave one."""
    reason = strerror(errno)
    if flags & NLM_F_ACK_TLVS:
        # struct nlmsgerr: the error, then the request's header, and its body unless capped.
        echoed = U32.unpack_from(body, 4)[0] if not flags & NLM_F_CAPPED else 16
        extended = attributes(body, 4 + echoed + (-echoed % 4))
        if NLMSGERR_ATTR_MSG in extended:
            reason = f"{text_of(extended[NLMSGERR_ATTR_MSG])} ({reason})"
    return KernelRefused(errno, f"cannot {request.what}: {reason}", details=advice(errno))
