"""JSON Schema (draft 2020-12) of configurations, for editors and documentation.

It takes whatever the plugins take, but for null and "", which stand for a key that is left
out. What no schema can say, such as that an address must be in its subnet, it leaves to
`cnm network validate`.
"""

from typing import Any

from cnm_core.schema.base import ConfigModel
from cnm_core.schema.plugins import ALIASES, PLUGINS, ConflistConfig, names_of

METASCHEMA = "https://json-schema.org/draft/2020-12/schema"
_IPAM_TYPE = {"type": {"type": "string", "description": "who gives addresses"}}

Schema = dict[str, Any]


def of_plugin(name: str) -> Schema:
    """The schema of a plugin's configuration as on its stdin. KeyError where it is not ours."""
    plugin = PLUGINS[ALIASES.get(name, name)]
    schema = _merged([of_model(model) for model in plugin.models])
    ipam = schema["properties"]["ipam"]
    ipam["properties"] = _IPAM_TYPE
    if plugin.ipam is None:
        ipam["allOf"] = [
            _where_type(kind, of_model(other.ipam)) for kind, other in PLUGINS.items() if other.ipam
        ]
    else:
        schema["properties"]["ipam"] = _merged([of_model(plugin.ipam), ipam])
    example = next((each for each in plugin.example if each["type"] == name), plugin.example[0])
    return {
        "$schema": METASCHEMA,
        "title": name,
        **schema,
        "description": plugin.about,
        "examples": [{"cniVersion": "1.1.0", "name": "blue", **example}],
    }


def of_conflist() -> Schema:
    """The schema of a network's file, whatever plugins of ours it lists."""
    schema = of_model(ConflistConfig)
    cases = []
    for name in PLUGINS:
        case = of_plugin(name)
        case["required"].remove("name")  # the list has it
        cases.append(_where_type(name, {key: case[key] for key in ("properties", "required")}))
    item = {"type": "object", "required": ["type"], "allOf": cases}
    schema["properties"]["plugins"] |= {"items": item, "minItems": 1}
    return {
        "$schema": METASCHEMA,
        "title": "network",
        **schema,
        "required": ["name", "plugins"],
        "examples": [
            {"cniVersion": "1.1.0", "name": "blue", "plugins": list(plugin.example)}
            for plugin in PLUGINS.values()
        ],
    }


def of_model(model: type[ConfigModel]) -> Schema:
    """The schema of one model, self-contained and without pydantic's titles of keys."""
    schema = model.model_json_schema()
    return _plain(schema, schema.pop("$defs", {}))


def _plain(schema: Schema, definitions: Schema) -> Schema:
    """A schema with its references resolved, and without alternatives that are null."""
    schema = dict(schema)
    inner: Schema = {}
    if "$ref" in schema:
        inner = definitions[schema.pop("$ref").rpartition("/")[2]]
        schema.pop("default", None)  # it is that of its members
    alternatives = [each for each in schema.pop("anyOf", ()) if each != {"type": "null"}]
    if len(alternatives) == 1:
        (inner,) = alternatives
    elif alternatives:
        schema["anyOf"] = [_plain(each, definitions) for each in alternatives]
    if inner:
        return {**_plain(inner, definitions), **_plain(schema, definitions)}
    if schema.get("default", 0) is None:
        del schema["default"]
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _plain(schema[key], definitions)
    if "properties" in schema:
        schema.pop("title", None)
        schema["properties"] = {
            key: _plain(_untitled(value, key), definitions)
            for key, value in schema["properties"].items()
        }
    return schema


def _untitled(schema: Schema, key: str) -> Schema:
    """A key's schema without the title that pydantic makes of the key."""
    made = key.replace("_", " ").title()
    return {name: value for name, value in schema.items() if (name, value) != ("title", made)}


def _merged(schemas: list[Schema]) -> Schema:
    """One schema for what several say about the same object, the later ones stronger."""
    merged: Schema = {}
    for schema in schemas:
        for key, value in schema.items():
            before = merged.get(key)
            if isinstance(before, dict) and isinstance(value, dict):
                merged[key] = _merged([before, value])
            elif isinstance(before, list) and key == "required":
                merged[key] = list(dict.fromkeys([*before, *value]))
            else:
                merged[key] = value
    return merged


def _where_type(name: str, schema: Schema) -> Schema:
    """What holds for objects whose `type` is that plugin."""
    return {
        "if": {"properties": {"type": {"enum": names_of(name)}}, "required": ["type"]},
        "then": schema,
    }
