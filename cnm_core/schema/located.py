"""JSON with the place in the text of each value, for messages that point at it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from cnm_core import json

# The steps from the root of a document to a value: keys, and indexes of lists.
Path = tuple[int | str, ...]

# The tokens of a document that is known to be JSON.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+')
_AT = re.compile(r", at line (\d+) column (\d+)$")


class Malformed(Exception):
    """A text that is not JSON: what is wrong, and the line and column where."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column


@dataclass
class Document:
    """A value, and the offsets in its text of all values and keys in it.

    `repeated` has the path and offset of each key that its object has a second time.
    """

    text: str
    value: object = None
    values: dict[Path, int] = field(default_factory=dict)
    keys: dict[Path, int] = field(default_factory=dict)
    repeated: list[tuple[Path, int]] = field(default_factory=list)

    def place(self, path: Path, *, key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of a value or of its key.

        Where there is no such value, those of the nearest object or list around it.
        """
        if key and path in self.keys:
            return self.position(self.keys[path])
        while path not in self.values:
            path = path[:-1]
        return self.position(self.values[path])

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, from 1 and in characters, of an offset."""
        return self.text.count("\n", 0, offset) + 1, offset - self.text.rfind("\n", 0, offset)


def parse(content: bytes) -> Document:
    """The document of a file's content. Raises Malformed, in the plugins' words."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        before = Document(content[: error.start].decode())
        line, column = before.position(len(before.text))
        byte = content[error.start]
        raise Malformed(f"is not UTF-8: there is a byte 0x{byte:02x}", line, column) from None
    if text.startswith("\ufeff"):
        raise Malformed("begins with a byte order mark, which JSON has not", 1, 1)
    try:
        document = Document(text, json.loads(text))
    except ValueError as error:
        found = _AT.search(str(error))
        assert found is not None, error
        message = f"is not JSON: {str(error)[: found.start()]}"
        raise Malformed(message, int(found[1]), int(found[2])) from None
    _locate(document, _TOKEN.finditer(text), ())
    return document


def pointer(path: Path) -> str:
    """The JSON Pointer (RFC 6901) of a path, "" for the whole document."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _locate(document: Document, tokens: Iterator[re.Match[str]], path: Path) -> str:
    """Note where the next value and all in it stand; its first token, or what closes a list."""
    token = next(tokens)
    document.values[path] = token.start()
    if token[0] == "{":
        _locate_members(document, tokens, path)
    elif token[0] == "[":
        _locate_items(document, tokens, path)
    elif token[0] == "]":
        del document.values[path]
    return token[0]


def _locate_members(document: Document, tokens: Iterator[re.Match[str]], path: Path) -> None:
    seen = set()
    for token in tokens:
        if token[0] == "}":
            return
        if token[0] == ",":
            continue
        key = json.loads(token[0])
        assert isinstance(key, str)
        member = (*path, key)
        if key in seen:
            document.repeated.append((member, token.start()))
        seen.add(key)
        document.keys[member] = token.start()
        next(tokens)  # the colon
        _locate(document, tokens, member)


def _locate_items(document: Document, tokens: Iterator[re.Match[str]], path: Path) -> None:
    index = 0
    while _locate(document, tokens, (*path, index)) != "]" and next(tokens)[0] == ",":
        index += 1
