"""Addresses as the kernel has them: 4 or 16 bytes in network order, and a prefix length."""

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from cnm_core.record import Record


def parse_ip(text: str) -> bytes:
    """The 4 or 16 bytes of an address in dotted or RFC 4291 text form.

    Raises ValueError, with the text in its message, for anything else
    (zones, ports, prefixes, host names, numbers with leading zeros).
    """
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        raise ValueError(f'must be an IP address, got "{text}"') from None


def format_ip(ip: bytes) -> str:
    """The text of an address of 4 or 16 bytes."""
    return inet_ntop(AF_INET if len(ip) == 4 else AF_INET6, ip)


def to_int(ip: bytes) -> int:
    """The address as a number."""
    return int.from_bytes(ip, "big")


def to_ip(number: int, length: int) -> bytes:
    """The address of that number, `length` (4 or 16) bytes long."""
    return number.to_bytes(length, "big")


class Address(Record):
    """An address with the prefix length of its network, as in 10.1.0.5/16."""

    ip: bytes
    prefix: int

    def __str__(self) -> str:
        return f"{format_ip(self.ip)}/{self.prefix}"

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if len(self.ip) == 4 else 6

    @property
    def network(self) -> "Address":
        """The address with all host bits zero."""
        shift = len(self.ip) * 8 - self.prefix
        return Address(to_ip(to_int(self.ip) >> shift << shift, len(self.ip)), self.prefix)

    @property
    def last(self) -> bytes:
        """The address with all host bits one: IPv4's broadcast address."""
        host_bits = (1 << (len(self.ip) * 8 - self.prefix)) - 1
        return to_ip(to_int(self.ip) | host_bits, len(self.ip))

    def overlaps(self, other: "Address") -> bool:
        """Whether the networks of both have addresses in common."""
        return self.ip in other or other.ip in self

    def __contains__(self, ip: bytes) -> bool:
        shift = len(self.ip) * 8 - self.prefix
        return len(ip) == len(self.ip) and to_int(ip) >> shift == to_int(self.ip) >> shift


def parse_address(text: str) -> Address:
    """An address with its prefix length from CIDR notation, host bits kept.

    Raises ValueError with the text in its message.
    """
    ip, _, length = text.partition("/")
    try:
        if not (length.isascii() and length.isdigit()):
            raise ValueError
        address = Address(parse_ip(ip), int(length))
    except ValueError:
        raise ValueError(f'must be an address in CIDR notation, got "{text}"') from None
    if address.prefix > len(address.ip) * 8:
        raise ValueError(f'must have a prefix length of its family, got "{text}"')
    return address


def parse_subnet(text: str) -> Address:
    """A network in CIDR notation whose host bits are zero; ValueError names the right one."""
    subnet = parse_address(text)
    if subnet != subnet.network:
        raise ValueError(
            f'must have no host bits set, got "{text}"; did you mean {subnet.network}?'
        )
    return subnet


class Span(Record):
    """Addresses of one family from the first to the last, both included."""

    first: bytes
    last: bytes

    def __str__(self) -> str:
        return f"{format_ip(self.first)}-{format_ip(self.last)}"


def parse_span(text: str) -> Span:
    """An address, a network in CIDR notation, or two addresses with a hyphen between them.

    Raises ValueError with the text in its message.
    """
    if "/" in text:
        subnet = parse_subnet(text)
        return Span(subnet.ip, subnet.last)
    low, hyphen, high = text.partition("-")
    try:
        first = parse_ip(low)
        last = parse_ip(high) if hyphen else first
    except ValueError:
        raise ValueError(
            f'must be an address, a network in CIDR notation or FIRST-LAST, got "{text}"'
        ) from None
    if len(first) != len(last) or first > last:
        raise ValueError(f'must go from a lower to a higher address, got "{text}"')
    return Span(first, last)


def parse_mac(text: str) -> bytes:
    """The 6 bytes of an Ethernet address for one station, in colon or hyphen notation.

    Raises ValueError for malformed, multicast and all-zero addresses, which the
    kernel refuses for a link (is_valid_ether_addr, include/linux/etherdevice.h).
    """
    pairs = text.split(":" if ":" in text else "-")
    try:
        mac = bytes.fromhex("".join(pairs))
    except ValueError:
        mac = b""
    if len(mac) != 6 or any(len(pair) != 2 or not pair.isalnum() for pair in pairs):
        raise ValueError(f'must be a MAC address such as 02:42:0a:01:00:05, got "{text}"')
    if mac[0] & 1 or not any(mac):
        raise ValueError(f'must be the MAC address of one station, got "{text}"')
    return mac


def format_mac(mac: bytes) -> str:
    """The colon notation of an Ethernet address."""
    return mac.hex(":")
