"""JSON (RFC 8259) read and written without the standard library's package.

``import json`` costs a plugin process 8 ms (it compiles regular expressions). A
configuration has some hundred tokens, which this reads in a fraction of one. It is
strict: one document, no NaN, no control characters in strings, bounded depth.
"""

DEPTH_LIMIT = 64
_SPACE = " \t\n\r"
_NUMBER = "0123456789+-.eE"
_ESCAPES = {
    '"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
}  # fmt: skip
_WORDS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}


def loads(text: str) -> object:
    """The value of a JSON document: dict, list, str, int, float, bool or None.

    Raises ValueError that names what was expected, with line and column.
    """
    try:
        value, end = _value(text, _skip(text, 0), 0)
        end = _skip(text, end)
    except IndexError:
        raise _error("the document ends too early", text, len(text)) from None
    if end != len(text):
        raise _error("text after the document", text, end)
    return value


def dumps(value: object, *, indent: str = "", _margin: str = "\n") -> str:
    """The JSON text of nested dicts, lists, tuples, str, int, float, bool and None.

    With `indent`, one member a line, each level shifted by it.
    """
    if isinstance(value, str):
        return _quote(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    margin = _margin + indent if indent else ""
    if isinstance(value, dict):
        colon = ": " if indent else ":"
        members = [
            f"{_quote(key)}{colon}{dumps(member, indent=indent, _margin=margin)}"
            for key, member in value.items()
        ]
        return _wrap("{", members, "}", margin, _margin)
    if isinstance(value, (list, tuple)):
        members = [dumps(member, indent=indent, _margin=margin) for member in value]
        return _wrap("[", members, "]", margin, _margin)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def shorten(value: object, limit: int = 120) -> str:
    """The JSON text of a value for a message, cut where it grows long."""
    text = dumps(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _wrap(opening: str, members: list[str], closing: str, margin: str, outer: str) -> str:
    if not members or not margin:
        return opening + ",".join(members) + closing
    return opening + margin + f",{margin}".join(members) + outer + closing


def _quote(text: str) -> str:
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char.isprintable():
            out.append(char)
        elif char > "\uffff":
            code = ord(char) - 0x10000
            out.append(f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}")
        else:
            out.append(f"\\u{ord(char):04x}")
    return '"' + "".join(out) + '"'


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _value(text: str, at: int, depth: int) -> tuple[object, int]:
    first = text[at]
    if first == '"':
        return _string(text, at + 1)
    if first == "{" or first == "[":
        if depth == DEPTH_LIMIT:
            raise _error(f"more than {DEPTH_LIMIT} levels of nesting", text, at)
        return (_object if first == "{" else _array)(text, at + 1, depth + 1)
    if first in _WORDS:
        word, value = _WORDS[first]
        if text.startswith(word, at):
            return value, at + len(word)
    return _number(text, at)


def _object(text: str, at: int, depth: int) -> tuple[dict[str, object], int]:
    members: dict[str, object] = {}
    at = _skip(text, at)
    if text[at] == "}":
        return members, at + 1
    while True:
        if text[at] != '"':
            raise _error("expected a key in double quotes", text, at)
        key, at = _string(text, at + 1)
        at = _skip(text, at)
        if text[at] != ":":
            raise _error("expected ':' after a key", text, at)
        members[key], at = _value(text, _skip(text, at + 1), depth)
        at = _skip(text, at)
        if text[at] == "}":
            return members, at + 1
        if text[at] != ",":
            raise _error("expected ',' or '}'", text, at)
        at = _skip(text, at + 1)


def _array(text: str, at: int, depth: int) -> tuple[list[object], int]:
    items: list[object] = []
    at = _skip(text, at)
    if text[at] == "]":
        return items, at + 1
    while True:
        item, at = _value(text, at, depth)
        items.append(item)
        at = _skip(text, at)
        if text[at] == "]":
            return items, at + 1
        if text[at] != ",":
            raise _error("expected ',' or ']'", text, at)
        at = _skip(text, at + 1)


def _string(text: str, at: int) -> tuple[str, int]:
    end = text.find('"', at)
    if end < 0:
        raise _error("a string without its closing quote", text, at - 1)
    chunk = text[at:end]
    if "\\" not in chunk and chunk.isprintable():
        return chunk, end + 1
    parts: list[str] = []
    while True:
        char = text[at]
        if char == '"':
            return _join_surrogates("".join(parts)), at + 1
        if char < " ":
            raise _error("a control character in a string", text, at)
        if char != "\\":
            parts.append(char)
            at += 1
        elif text[at + 1] == "u":
            parts.append(chr(_hex4(text, at + 2)))
            at += 6
        elif text[at + 1] in _ESCAPES:
            parts.append(_ESCAPES[text[at + 1]])
            at += 2
        else:
            raise _error("an unknown escape in a string", text, at)


def _join_surrogates(text: str) -> str:
    """Make one character of each escaped UTF-16 pair; a lone half becomes U+FFFD, as in Go."""
    if text.isprintable():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _hex4(text: str, at: int) -> int:
    digits = text[at : at + 4]
    if len(digits) == 4 and all(digit in "0123456789abcdefABCDEF" for digit in digits):
        return int(digits, 16)
    raise _error("expected four hexadecimal digits", text, at)


def _number(text: str, at: int) -> tuple[int | float, int]:
    end = at
    while end < len(text) and text[end] in _NUMBER:
        end += 1
    token = text[at:end]
    digits = token.removeprefix("-")
    whole, exponent, power = digits.replace("E", "e").partition("e")
    whole, point, fraction = whole.partition(".")
    leading_zero = len(whole) > 1 and whole[0] == "0"
    if not whole.isdigit() or leading_zero or (point and not fraction.isdigit()):
        raise _error("expected a value", text, at)
    if exponent and not power.removeprefix("-" if power[:1] == "-" else "+").isdigit():
        raise _error("expected an exponent", text, at)
    if len(token) > 320:
        raise _error("a number of more than 320 characters", text, at)
    number = float(token) if point or exponent else int(token)
    if number in (float("inf"), float("-inf")):
        raise _error("a number too large", text, at)
    return number, end


def _error(what: str, text: str, at: int) -> ValueError:
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return ValueError(f"{what}, at line {line} column {column}")
