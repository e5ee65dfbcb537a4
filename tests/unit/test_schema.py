"""The JSON Schemas: valid themselves, and of one mind with the models they are made from."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from cnm_core.cni import pools
from cnm_core.schema import json_schema
from cnm_core.schema.plugins import ALIASES, PLUGINS
from plugins import EXECUTABLES
from tests.unit.test_decoders import documents

VALIDATORS = {name: Draft202012Validator(json_schema.of_plugin(name)) for name in PLUGINS}
CONFLIST = Draft202012Validator(json_schema.of_conflist())
NETWORK = {"cniVersion": "1.1.0", "name": "blue"}


def present(value: Any) -> Any:
    """A document without keys that are null or "", which count as left out."""
    if isinstance(value, dict):
        return {key: present(each) for key, each in value.items() if each not in (None, "")}
    return [present(each) for each in value] if isinstance(value, list) else value


def test_every_executable_is_described() -> None:
    """Whoever adds an executable describes it in cnm_core/schema/plugins.py."""
    executables = {name for name, plugin in PLUGINS.items() if plugin.executable}
    assert {*executables, *ALIASES} == set(EXECUTABLES)


def test_who_gives_no_addresses() -> None:
    """Each executable is an IPAM plugin or one that must never be asked for addresses."""
    others = {name for name, plugin in PLUGINS.items() if plugin.ipam is None}
    assert others == set(pools.NETWORK_PLUGINS)


@pytest.mark.parametrize("name", [*PLUGINS, *ALIASES])
def test_plugin_schema(name: str) -> None:
    """It is valid by the metaschema, explains each key, and takes its own example."""
    schema = json_schema.of_plugin(name)
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(schema["examples"][0])
    assert all(value["description"] for value in schema["properties"].values())
    assert "$ref" not in json.dumps(schema)


def test_conflist_schema() -> None:
    """The schema of whole files is valid, and takes the examples."""
    schema = json_schema.of_conflist()
    Draft202012Validator.check_schema(schema)
    assert len(schema["examples"]) == len(PLUGINS)
    for example in schema["examples"]:
        CONFLIST.validate(example)


@pytest.mark.parametrize("name", PLUGINS)
@settings(max_examples=25)
@given(data=st.data())
def test_schema_takes_what_models_take(name: str, data: st.DataObject) -> None:
    """An editor marks nothing that a plugin takes."""
    plugin = PLUGINS[name]
    document: dict[str, Any] = {}
    for model in plugin.models:
        document |= data.draw(documents(model))
    if plugin.ipam is not None:
        document["ipam"] = data.draw(documents(plugin.ipam))
    try:
        for model in plugin.models:
            model.model_validate(document)
        if plugin.ipam is not None:
            plugin.ipam.model_validate(document["ipam"])
    except ValidationError:
        return
    document = present(document)
    if isinstance(document.get("ipam"), dict):
        document["ipam"].pop("type", None)
    VALIDATORS[name].validate(document)


@pytest.mark.parametrize(
    ("plugin", "place"),
    [
        ({"type": "bridge", "mtu": 70000}, ["mtu"]),
        ({"type": "bridge", "isGateway": "yes"}, ["isGateway"]),
        ({"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{}]]}}, ["ipam"]),
        ({"type": "bridge", "ipam": {"type": "host-local-ipam", "subnet": 5}}, ["ipam", "subnet"]),
        ({"type": "portmap", "snat": 1}, ["snat"]),
        ({"mtu": 1500}, []),
    ],
)
def test_conflist_schema_refuses(plugin: dict[str, Any], place: list[str]) -> None:
    """What is wrong with a plugin is found in the list too."""
    errors = list(CONFLIST.iter_errors({**NETWORK, "plugins": [plugin]}))
    assert errors
    assert all(
        list(error.absolute_path)[: 2 + len(place)] == ["plugins", 0, *place] for error in errors
    )


def test_other_plugins_are_left_alone() -> None:
    """Keys of a plugin that is not ours, and other keys, are nobody's business."""
    CONFLIST.validate({**NETWORK, "plugins": [{"type": "tuning", "mtu": "x", "ipam": 5}]})


def cnm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line from its sources."""
    command = [sys.executable, "-m", "cnm_core.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command() -> None:
    """`cnm schema` prints the same documents, and refuses other names."""
    assert json.loads(cnm("schema", "bridge").stdout) == json_schema.of_plugin("bridge")
    assert json.loads(cnm("schema").stdout) == json_schema.of_conflist()
    unknown = cnm("schema", "tuning")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "'tuning'" in unknown.stderr and "'bridge'" in unknown.stderr
