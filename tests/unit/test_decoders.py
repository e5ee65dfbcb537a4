"""The generated decoders against the pydantic models that they are made from."""

import importlib
from types import ModuleType, NoneType
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Ge, Le
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, ValidationError

from cnm_core.config import formats
from cnm_core.errors import InvalidNetworkConfig
from cnm_core.record import Record
from cnm_core.schema.base import ConfigModel, explain
from cnm_core.schema.generate import MODULES, TARGET, formatted, models_of, source_of, spelled

MODELS = [model for module in MODULES for model in models_of(module)]
MALFORMED = ["x", " ", "é", "a b", "/", "\0", "a" * 400, "::1%eth0", "1.2.3", "0x1/8", "1:1"]
# For each format what it takes, and what it does not.
TEXTS: dict[Any, tuple[list[str], list[str]]] = {
    formats.name: (["a", "7", "A.b_c-1"], ["-a", ".a", "_a", "a/b", "a\n"]),
    formats.interface_name: (["cni0", "a" * 15, "é" * 7], ["a" * 16, "é" * 8, ".", "..", "a:b"]),
    formats.bridge_name: (
        ["cni0", "br@0", "br'{", "a" * 15],
        ["a" * 16, "a:b", "br*", "*", "br%d", 'b"r', "b\\r", "br\x01", "br\x7f"],
    ),
    formats.ip: (["10.1.0.1", "fd00::1", "::"], ["010.1.0.1", "10.1.0.256", "::1%lo", "::/8"]),
    formats.address: (["10.1.0.5/16", "fd00::5/64"], ["10.1.0.5", "10.1.0.5/33", "fd00::/"]),
    formats.span: (
        ["10.1.0.5", "10.1.0.0/24", "10.1.0.5-10.1.0.9", "fd00::-fd00::"],
        ["10.1.0.5/24", "10.1.0.9-10.1.0.5", "10.1.0.5-fd00::1", "10.1.0.5-", "-", "1-2-3"],
    ),
    formats.requested: (["10.1.0.5", "10.1.0.5/24", "fd00::5/64"], ["10.1.0", "fd00::5/129"]),
    formats.log_level: (["info", "error"], ["", "debug", "Info"]),
    formats.allocation: (["next-fit", "first-fit"], ["best-fit", "First-Fit"]),
    formats.macvlan_mode: (["bridge", "private", "vepa", "passthru"], ["source", "Bridge"]),
    formats.ipvlan_mode: (["l2", "l3", "l3s"], ["l4", "L2"]),
    formats.overlay_mode: (["l2", "l3"], ["l4", "L3"]),
    formats.bum: (["none", "ingress-replication"], ["multicast", "None"]),
    formats.ipvlan_flag: (["bridge", "private", "vepa"], ["passthru", "Vepa"]),
    formats.protocol: (["tcp", "UDP", "sctp"], ["icmp", "tcp "]),
    formats.subnet: (["10.1.0.0/16", "fd00::/64", "::/0"], ["10.1.0.5/16", "10.1.0.0/33", "::/"]),
    formats.mac: (["02:42:0a:01:00:05", "02-42-0A-01-00-05"], ["01:00:5e:00:00:01", "0:0:0:0:0:0"]),
    formats.endpoint: (
        ["http://10.0.0.1:2379", "https://etcd.example:443", "http://[fd00::1]:2379"],
        [
            "10.0.0.1:2379",
            "http://10.0.0.1",
            "http://:1",
            "http://a:0",
            "http://a:1/b",
            "ftp://a:1",
        ],
    ),
    formats.directory: (["/", "/run/cnm", "/a/", "//a"], ["a", "/a/../b", "/a/.", "/\0"]),
}

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 1)
    | st.floats(-2, 2)
    | st.sampled_from(["", *MALFORMED]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=3,
)


def of_type(annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    """Values of a field's type, and every now and then one that is not."""
    right, wrong = _values(annotation, metadata)
    return st.integers(0, 15).flatmap(lambda n: junk | wrong if n == 0 else right)


def _values(
    annotation: Any, metadata: list[Any]
) -> tuple[st.SearchStrategy[Any], st.SearchStrategy[Any]]:
    """Values of a type, and values that are nearly of it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _values(annotation.__origin__, [*annotation.__metadata__])
    if NoneType in arguments:
        return _values(arguments[0], metadata)
    if arguments and get_origin(arguments[-1]) is Literal:
        numbers, wrong = _values(arguments[0], metadata)
        (word,) = get_args(arguments[-1])
        return numbers | st.just(word), wrong | st.sampled_from([word.upper(), word + " "])
    if origin is list:
        return st.lists(of_type(arguments[0], []), max_size=3), junk
    if origin is dict:
        inner = junk if arguments[1] in (Any, object) else of_type(arguments[1], [])
        return st.dictionaries(st.text(), inner, max_size=3), junk
    if annotation is bool:
        return st.booleans(), st.integers(0, 1)
    if annotation is int:
        (low,) = (each.ge for each in metadata if isinstance(each, Ge))
        (high,) = (each.le for each in metadata if isinstance(each, Le))
        return st.integers(low, high), st.sampled_from([low - 1, high + 1, float(low), str(high)])
    if annotation is str:
        for each in metadata:
            if isinstance(each, AfterValidator):
                right, wrong = TEXTS[each.func]
                return st.sampled_from(right), st.sampled_from(wrong)
        return st.text(), junk
    return documents(annotation), junk


def documents(model: type[ConfigModel]) -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects for a model, some with keys that are missing or that nobody knows."""
    fields: dict[bool, dict[str, st.SearchStrategy[Any]]] = {True: {}, False: {}}
    for key, field in model.model_fields.items():
        fields[field.is_required()][key] = of_type(field.annotation, field.metadata)
    complete = st.fixed_dictionaries(fields[True], optional=fields[False])
    strange = fields[True] | fields[False] | {"unknown": junk}
    return complete | complete | st.fixed_dictionaries({}, optional=strange)


def decoders_of(module: ModuleType) -> ModuleType:
    """The generated module for a module of models."""
    return importlib.import_module(module.__name__.replace("cnm_core.schema", "cnm_core.config"))


def _plain(value: Any) -> Any:
    """A model's or a record's fields by their names in Python, lists as tuples."""
    if isinstance(value, ConfigModel):
        return {spelled(key): _plain(member) for key, member in value}
    if isinstance(value, Record):
        return {field: _plain(getattr(value, field)) for field in value._fields}
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_up_to_date(module: ModuleType) -> None:
    """The decoders that are checked in are what the generator makes of the models."""
    path = TARGET / f"{module.__name__.rpartition('.')[2]}.py"
    assert formatted(source_of(module)) == path.read_text(), "run make decoders"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@given(data=st.data(), place=st.sampled_from(["", "ipam"]))
def test_same_as_model(model: type[ConfigModel], data: st.DataObject, place: str) -> None:
    """Model and decoder take the same documents for the same values, and refuse the others alike.

    The decoder's message is the first of the model's, after the place of the document.
    """
    document = data.draw(documents(model) | junk)
    decode = getattr(
        decoders_of(importlib.import_module(model.__module__)), spelled(model.__name__)
    )
    try:
        expected = model.model_validate(document)
    except ValidationError as failure:
        with pytest.raises(InvalidNetworkConfig) as caught:
            decode(document)
        assert caught.value.msg == explain(failure)[0]
        with pytest.raises(InvalidNetworkConfig) as inside:
            decode(document, place)
        dot = "." if place and not caught.value.msg.startswith(":") else ""
        assert inside.value.msg == f"{place}{dot}{caught.value.msg}"
    else:
        assert _plain(decode(document)) == _plain(expected)


@given(st.text(max_size=20), st.sampled_from(list(TEXTS)))
def test_formats_explain(text: str, meaning: Any) -> None:
    """Whatever the text, a format gives its meaning, or an error that has the text."""
    try:
        meaning(text)
    except ValueError as error:
        assert str(error).startswith("must ")
        assert f'got "{text}"' in str(error)
