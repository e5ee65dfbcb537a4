"""Values taken out of a JSON document, each with the place it came from for the message.

A kind is a function of (value, place) that returns the checked value or raises
InvalidNetworkConfig. A key whose value is null or "" counts as absent, as in Go's decoder.
"""

from cnm_core import json
from cnm_core.errors import InvalidNetworkConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")
    D = TypeVar("D")
    Kind = Callable[[object, str], T]


def expected(what: str, value: object, place: str) -> InvalidNetworkConfig:
    """The error for a value of the wrong type or size."""
    return InvalidNetworkConfig(f"{place}: must be {what}, got {json.shorten(value)}")


def inside(place: str, key: str) -> str:
    """The place of a key in the object at `place`."""
    return f"{place}.{key}" if place else key


def optional(
    fields: dict[str, object], key: str, place: str, kind: "Kind[T]", default: "D"
) -> "T | D":
    """The checked value of a key, or the default where it is absent."""
    value = fields.get(key)
    return default if value is None or value == "" else kind(value, inside(place, key))


def required(fields: dict[str, object], key: str, place: str, kind: "Kind[T]") -> "T":
    """The checked value of a key that must be there."""
    value = fields.get(key)
    if value is None or value == "":
        raise InvalidNetworkConfig(f"{inside(place, key)}: is missing")
    return kind(value, inside(place, key))


def anything(value: object, place: str) -> object:
    """Any JSON value, left to whom it concerns."""
    return value


def text(value: object, place: str) -> str:
    """A string."""
    if type(value) is str:
        return value
    raise expected("a string", value, place)


def boolean(value: object, place: str) -> bool:
    """true or false."""
    if type(value) is bool:
        return value
    raise expected("true or false", value, place)


def mapping(value: object, place: str) -> dict[str, object]:
    """An object of any keys."""
    if type(value) is dict:
        return value
    raise expected("an object", value, place)


def mapping_of(item: "Kind[T]") -> "Kind[dict[str, T]]":
    """An object of any keys, whose values are of one kind."""

    def kind(value: object, place: str) -> "dict[str, T]":
        fields = mapping(value, place)
        return {key: item(each, inside(place, key)) for key, each in fields.items()}

    return kind


def integer(low: int, high: int) -> "Kind[int]":
    """A whole number from low to high."""

    def kind(value: object, place: str) -> int:
        if type(value) is int and low <= value <= high:
            return value
        raise expected(f"a whole number from {low} to {high}", value, place)

    return kind


def word_or_integer(word: str, low: int, high: int) -> "Kind[int | str]":
    """A word, or a whole number from low to high."""

    def kind(value: object, place: str) -> int | str:
        if value == word and type(value) is str:
            return value
        if type(value) is int and low <= value <= high:
            return value
        raise expected(f'"{word}" or a whole number from {low} to {high}', value, place)

    return kind


def word_or_boolean(word: str) -> "Kind[bool | str]":
    """true, false or a word."""

    def kind(value: object, place: str) -> bool | str:
        if type(value) is bool or (value == word and type(value) is str):
            return value
        raise expected(f'true, false or "{word}"', value, place)

    return kind


def checked(meaning: "Callable[[str], T]") -> "Kind[T]":
    """A string with a meaning, as one of cnm_core.config.formats gives it."""

    def kind(value: object, place: str) -> "T":
        try:
            return meaning(text(value, place))
        except ValueError as error:
            raise InvalidNetworkConfig(f"{place}: {error}") from None

    return kind


def list_of(item: "Kind[T]") -> "Kind[tuple[T, ...]]":
    """A list of items of one kind."""

    def kind(value: object, place: str) -> "tuple[T, ...]":
        if type(value) is not list:
            raise expected("a list", value, place)
        return tuple([item(each, f"{place}[{index}]") for index, each in enumerate(value)])

    return kind
