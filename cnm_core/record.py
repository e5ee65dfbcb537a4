"""Frozen, slotted classes from annotations alone.

``dataclasses`` would do the same and costs a plugin process 20 ms of imports
(it compiles source through ``inspect`` and ``re``); this costs some microseconds a class.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_: object) -> "Callable[[T], T]":
        """Stand in for typing's decorator, which only a type checker looks at."""
        return lambda decorated: decorated


class _RecordType(type):
    def __new__(mcs, name: str, bases: tuple[type, ...], body: "dict[str, Any]") -> "_RecordType":
        fields = tuple(body.get("__annotations__", ()))
        defaults = {field: body.pop(field) for field in fields if field in body}
        body["__slots__"] = fields
        body["_fields"] = fields
        body["_defaults"] = defaults
        return type.__new__(mcs, name, bases, body)


@dataclass_transform(frozen_default=True)
class Record(metaclass=_RecordType):
    """Base of every class that crosses a module boundary.

    The annotations of the class body are its fields, in the order of the
    constructor's parameters; a value beside an annotation is its default.
    Instances compare by value, are hashable where their fields are, and refuse
    assignment with AttributeError. A record inherits from Record only.
    """

    if TYPE_CHECKING:
        _fields: tuple[str, ...]

    def __init__(self, *args: "Any", **kwargs: "Any") -> None:
        assign = object.__setattr__
        fields = self._fields
        for field, value in zip(fields, args, strict=False):
            assign(self, field, value)
        for field in fields[len(args) :]:
            if field in kwargs:
                assign(self, field, kwargs.pop(field))
            elif field in self._defaults:  # type: ignore[attr-defined]
                assign(self, field, self._defaults[field])  # type: ignore[attr-defined]
            else:
                raise TypeError(f"{type(self).__name__} needs {field}")
        if kwargs or len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {fields}, not {args} {kwargs}")

    def __setattr__(self, field: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{field} is read-only; see replace()")

    def __delattr__(self, field: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{field} cannot be removed")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in self._fields)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, field) for field in self._fields))

    def __repr__(self) -> str:
        values = ", ".join(f"{field}={getattr(self, field)!r}" for field in self._fields)
        return f"{type(self).__name__}({values})"

    def replace(self, **changes: "Any") -> "Self":
        """A copy with the named fields changed."""
        for field in self._fields:
            changes.setdefault(field, getattr(self, field))
        return type(self)(**changes)
