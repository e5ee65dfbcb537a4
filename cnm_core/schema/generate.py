"""Writes the decoders of cnm_core.config from the models: ``python -m cnm_core.schema.generate``.

A model becomes a record with the same fields (in Python's spelling) and a function that
takes them out of a JSON object in order, with the checks of the model and its words for
what is wrong. What a field's type may be is what `_kind` knows; anything else is refused
here, at build time.
"""

import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from cnm_core.config import formats
from cnm_core.schema import (
    bridge,
    host,
    host_local,
    ipvlan,
    macvlan,
    network,
    none,
    overlay,
    ports,
    remote,
    requests,
    static,
)
from cnm_core.schema.base import ConfigModel

MODULES: tuple[ModuleType, ...] = (
    network,
    bridge,
    macvlan,
    ipvlan,
    host,
    host_local,
    none,
    static,
    remote,
    requests,
    ports,
    overlay,
)
TARGET = Path(__file__).parent.parent / "config"
_MEANINGS = {
    check: (f"values.checked(formats.{name})", check.__annotations__["return"].__name__)
    for name, check in vars(formats).items()
    if callable(check) and not name.startswith("parse")
}
_PLAIN: dict[Any, tuple[str, str]] = {
    str: ("values.text", "str"),
    bool: ("values.boolean", "bool"),
    Any: ("values.anything", "object"),
    object: ("values.anything", "object"),
}


def spelled(key: str) -> str:
    """The Python spelling of a key: isDefaultGateway becomes is_default_gateway."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()


def models_of(module: ModuleType) -> Iterator[type[ConfigModel]]:
    """The models that a module defines, in its order."""
    for value in vars(module).values():
        is_model = isinstance(value, type) and issubclass(value, ConfigModel)
        if is_model and value.__module__ == module.__name__:
            yield value


def _kind(annotation: Any, metadata: list[Any]) -> tuple[str, str]:
    """The decoder of a type, and the type of what it returns, both as source."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    for each in metadata:
        if isinstance(each, AfterValidator):
            return _MEANINGS[each.func]
    if annotation is int:
        return f"values.integer({_bounds(metadata)})", "int"
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin in (UnionType, Union) and get_origin(arguments[-1]) is Literal:
        (word,) = get_args(arguments[-1])
        if arguments[0] is bool:
            return f'values.word_or_boolean("{word}")', "bool | str"
        bounds = _bounds(arguments[0].__metadata__)
        return f'values.word_or_integer("{word}", {bounds})', "int | str"
    if origin in (UnionType, Union) and NoneType in arguments:
        (other,) = set(arguments) - {NoneType}
        return _kind(other, metadata)
    if hasattr(annotation, "__metadata__"):
        return _kind(annotation.__origin__, [*annotation.__metadata__])
    if origin is list:
        kind, result = _kind(arguments[0], [])
        return f"values.list_of({kind})", f"tuple[{result}, ...]"
    if origin is dict:
        kind, result = _kind(arguments[1], [])
        if result == "object":
            return "values.mapping", "dict[str, object]"
        return f"values.mapping_of({kind})", f"dict[str, {result}]"
    if isinstance(annotation, type) and issubclass(annotation, ConfigModel):
        return spelled(annotation.__name__), annotation.__name__
    raise TypeError(f"no decoder for {annotation}")


def _bounds(metadata: Collection[Any]) -> str:
    """The least and the greatest value of a whole number, as source."""
    (low,) = (each.ge for each in metadata if isinstance(each, Ge))
    (high,) = (each.le for each in metadata if isinstance(each, Le))
    return f"{low}, {high}"


def _default(field: FieldInfo, result: str) -> str:
    value = field.default
    if isinstance(value, ConfigModel):
        return f"{result}()"
    for each in field.metadata:
        if isinstance(each, AfterValidator) and value is not None:
            value = each.func(value)  # type: ignore[call-arg]
    return "()" if value == [] else repr(value)


def _field(key: str, field: FieldInfo) -> tuple[str, str]:
    """A field's line in the record, and its line in the decoder."""
    kind, result = _kind(field.annotation, field.metadata)
    if field.is_required():
        return (
            f"    {spelled(key)}: {result}",
            f'        {spelled(key)}=values.required(fields, "{key}", place, {kind}),',
        )
    default = _default(field, result)
    optional = " | None" if field.default is None else ""
    return (
        f"    {spelled(key)}: {result}{optional} = {default}",
        f'        {spelled(key)}=values.optional(fields, "{key}", place, {kind}, {default}),',
    )


def _model(model: type[ConfigModel]) -> str:
    name = model.__name__
    lines = [_field(key, field) for key, field in model.model_fields.items()]
    summary = (model.__doc__ or "").strip().split("\n")[0]
    return "\n".join(
        [
            "",
            "",
            f"class {name}(Record):",
            f'    """{summary}"""',
            "",
            *(record for record, _ in lines),
            "",
            "",
            f'def {spelled(name)}(document: object, place: str = "") -> {name}:',
            f'    """Decode a {name}. Raises InvalidNetworkConfig."""',
            "    fields = values.mapping(document, place)",
            f"    return {name}(",
            *(taken for _, taken in lines),
            "    )",
        ]
    )


def source_of(module: ModuleType) -> str:
    """The source of the decoders for one module of models, before formatting."""
    body = "".join(_model(model) for model in models_of(module))
    defined = {model.__name__ for model in models_of(module)}
    own = ["formats", "values"] if "formats." in body else ["values"]
    imports = [f"from cnm_core.config import {', '.join(own)}"]
    for other in MODULES:
        names = [model.__name__ for model in models_of(other) if model.__name__ not in defined]
        used = [name for name in names if re.search(rf"\b{name}\b", body)]
        if used:
            spellings = ", ".join(sorted([*used, *map(spelled, used)]))
            imports.append(
                f"from cnm_core.config.{other.__name__.split('.')[-1]} import {spellings}"
            )
    inet = [name for name in ("Address", "Span") if re.search(rf"\b{name}\b", body)]
    if inet:
        imports.append(f"from cnm_core.inet import {', '.join(inet)}")
    imports.append("from cnm_core.record import Record")
    header = f'"""Generated from {module.__name__} by `make decoders`; do not edit."""'
    return "\n".join([header, "", *imports]) + body + "\n"


def formatted(source: str) -> str:
    """The source as ruff formats and sorts it."""
    for arguments in (["check", "--fix", "--select", "I"], ["format"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--quiet", "-"]
        source = subprocess.run(
            command, input=source, capture_output=True, text=True, check=True
        ).stdout
    return source


def main() -> None:
    """Write every generated module."""
    for module in MODULES:
        path = TARGET / f"{module.__name__.split('.')[-1]}.py"
        path.write_text(formatted(source_of(module)))


if __name__ == "__main__":
    main()
