"""Records: values with named fields."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm_core.record import Record


class Point(Record):
    """A record with a default and without."""

    x: int
    y: int = 0

    @property
    def swapped(self) -> "Point":
        """Records may have behaviour."""
        return Point(self.y, self.x)


class Pixel(Record):
    """Another record with the same fields."""

    x: int
    y: int = 0


@given(st.integers(), st.integers())
def test_construction(x: int, y: int) -> None:
    """Fields are given by position, by name, or by their defaults."""
    assert Point(x, y) == Point(x, y=y) == Point(y=y, x=x)
    assert (Point(x, y).x, Point(x, y).y) == (x, y)
    assert Point(x) == Point(x, 0)
    assert Point(x, y).swapped.swapped == Point(x, y)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "Point needs x"),
        ((), {"y": 1}, "Point needs x"),
        ((1, 2, 3), {}, "Point takes"),
        ((1,), {"z": 1}, "Point takes"),
        ((1,), {"x": 1}, "Point takes"),
    ],
)
def test_wrong_arguments(args: tuple[int, ...], kwargs: dict[str, int], message: str) -> None:
    """A field that is missing, given twice or unknown is a TypeError that names the record."""
    with pytest.raises(TypeError, match=message):
        Point(*args, **kwargs)


@pytest.mark.parametrize("field", ["x", "y", "z"])
def test_frozen(field: str) -> None:
    """No field can be assigned or removed, and none is added."""
    point = Point(1, 2)
    with pytest.raises(AttributeError):
        setattr(point, field, 3)
    with pytest.raises(AttributeError):
        delattr(point, field)
    assert point == Point(1, 2)
    assert not hasattr(point, "__dict__")


@given(*[st.integers(0, 2)] * 4)
def test_equality(x: int, y: int, other_x: int, other_y: int) -> None:
    """Equal are records of one type with equal fields; equal records have equal hashes."""
    one, other = Point(x, y), Point(other_x, other_y)
    assert (one == other) == ((x, y) == (other_x, other_y))
    assert (one != other) == ((x, y) != (other_x, other_y))
    assert one != other or hash(one) == hash(other)
    assert one != Pixel(x, y)
    assert one != (x, y)


def test_hash_of_what_has_none() -> None:
    """A record with a field that cannot be hashed cannot be either."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point([]))  # type: ignore[arg-type]


@given(st.integers(), st.integers())
def test_replace(x: int, y: int) -> None:
    """A copy differs in the fields that are named, and leaves the original alone."""
    point = Point(1, 2)
    assert point.replace(y=y) == Point(1, y)
    assert point.replace(x=x, y=y) == Point(x, y)
    assert point.replace() == point == Point(1, 2)
    with pytest.raises(TypeError, match="Point takes"):
        point.replace(z=1)


def test_repr() -> None:
    """A record says what it is in the source's own form."""
    assert repr(Point(1)) == "Point(x=1, y=0)"
