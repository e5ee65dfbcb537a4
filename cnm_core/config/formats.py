"""Text that means something: each function returns the meaning or raises ValueError.

The message of the ValueError starts with "must" and ends with the text it got, so that
it reads well after the name of a key.
"""

from cnm_core.inet import parse_address, parse_ip, parse_mac, parse_span, parse_subnet

ip = parse_ip
address = parse_address
subnet = parse_subnet
span = parse_span
mac = parse_mac

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME = _WORD | frozenset("_.-")


def name(text: str) -> str:
    """A network name or container ID (CNI spec 1.1.0, "Network configuration format")."""
    if text and text[0] in _WORD and _NAME.issuperset(text):
        return text
    raise ValueError(
        "must begin with a letter or digit and have only letters, digits, "
        f'"_", "." and "-" after it, got "{text}"'
    )


def interface_name(text: str) -> str:
    """A link name that the kernel accepts (dev_valid_name, net/core/dev.c), without a colon."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f'must be UTF-8, as results are, got "{text}"') from None
    if length > 15:
        raise ValueError(f'must be at most 15 bytes long, got "{text}"')
    if text in ("", ".", "..") or any(char in "/:\0" or char.isspace() for char in text):
        raise ValueError(f'must be an interface name without "/", ":" or white space, got "{text}"')
    if "%" in text or text in ("all", "default"):
        # A pattern to the kernel (dev_alloc_name), and names of all links' settings.
        raise ValueError(f'must be a name that the kernel leaves to one link, got "{text}"')
    return text


def bridge_name(text: str) -> str:
    """A link name that nftables can write down and read back as that one link's."""
    for char in interface_name(text):
        if char in '*"\\' or ord(char) < 32 or ord(char) == 127:
            raise ValueError(
                f'must be a bridge name without "*", double quotes, "\\" '
                f'or control characters, got "{text}"'
            )
    return text


def directory(text: str) -> str:
    """An absolute path without "." and ".." parts."""
    parts = text.split("/")
    if not text.startswith("/") or "\0" in text or "." in parts or ".." in parts:
        raise ValueError(f'must be an absolute path without "." or "..", got "{text}"')
    return text.rstrip("/") or "/"


def protocol(text: str) -> int:
    """The number of a transport protocol with ports, named in any case as the peers take it."""
    number = {"tcp": 6, "udp": 17, "sctp": 132}.get(text.lower())
    if number is None:
        raise ValueError(f'must be tcp, udp or sctp, got "{text}"')
    return number


def requested(text: str) -> str:
    """An address with or without a prefix length, left to the IPAM driver that is asked."""
    try:
        parse_address(text) if "/" in text else parse_ip(text)
    except ValueError:
        raise ValueError(
            f'must be an IP address, with or without a prefix length, got "{text}"'
        ) from None
    return text


def log_level(text: str) -> str:
    """Which operations are logged: all, or those that failed."""
    return _one_of(text, "info", "error")


def allocation(text: str) -> str:
    """Which of the free addresses of a range set is given."""
    return _one_of(text, "next-fit", "first-fit")


def macvlan_mode(text: str) -> str:
    """How macvlan links on one parent see each other."""
    return _one_of(text, "bridge", "private", "vepa", "passthru")


def ipvlan_mode(text: str) -> str:
    """The layer at which an ipvlan parent hands packets on."""
    return _one_of(text, "l2", "l3", "l3s")


def overlay_mode(text: str) -> str:
    """What an overlay stretches over hosts: one link layer, or routes."""
    return _one_of(text, "l2", "l3")


def bum(text: str) -> str:
    """What an overlay does with frames to everybody, and to those it does not know."""
    return _one_of(text, "none", "ingress-replication")


def ipvlan_flag(text: str) -> str:
    """How ipvlan links on one parent see each other."""
    return _one_of(text, "bridge", "private", "vepa")


def _one_of(text: str, *words: str) -> str:
    if text in words:
        return text
    raise ValueError(f'must be {", ".join(words[:-1])} or {words[-1]}, got "{text}"')


def endpoint(text: str) -> str:
    """Where a server is, by http or https: left as it is to whoever connects there."""
    scheme, _, rest = text.partition("://")
    host, _, port = rest.rpartition(":")
    whole = host and port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if "@" in rest:
        raise ValueError("must name no user: user and passwordFile do, so that no file has both")
    if scheme not in ("http", "https") or not whole or not rest.isprintable() or "/" in rest:
        raise ValueError(f'must be http://HOST:PORT or https://HOST:PORT, got "{text}"')
    return text
