"""Exit status, stdout and stderr (CNI spec 1.1.0, sections 2 and 5)."""

import json
import os
from collections.abc import Callable

import pytest

from tests import cni
from tests.cni import Config, Endpoint, Outcome

Call = Callable[..., Outcome]

SANDBOX = {"container_id": "c1", "netns": "/run/netns/absent", "ifname": "eth0"}

FAILURES: dict[str, tuple[str, Config, Config]] = {
    "unknown command": ("NONE", {}, {}),
    "missing variables": ("ADD", {}, {}),
    "malformed variable": ("ADD", {}, SANDBOX | {"container_id": "../x"}),
    "unknown version": ("ADD", {"cniVersion": "9.9.9"}, SANDBOX),
    "missing name": ("ADD", {"name": None}, SANDBOX),
    "invalid key": ("ADD", {"ipam": "x"}, SANDBOX),
    "no sandbox": ("ADD", {}, SANDBOX),
    "own namespace": ("ADD", {}, SANDBOX | {"netns": "/proc/self/ns/net"}),
    "nothing to check against": ("CHECK", {}, SANDBOX),
}
NEEDS = {"invalid key": ["addresses"], "no sandbox": ["sandbox"], "own namespace": ["sandbox"]}
SILENT = ["DEL", "CHECK", "GC", "STATUS"]


@pytest.fixture
def silent(
    endpoint: Callable[[], Endpoint], call: Call, config: Config
) -> Callable[[str], Outcome]:
    """Runs one of the commands without output, on an endpoint that is there."""
    eth0 = endpoint()
    result = eth0.add(config)

    def run(command: str) -> Outcome:
        if command in ("GC", "STATUS"):
            return call(command, cni.collected(config, eth0))
        return eth0.call(command, config | {"prevResult": result})

    return run


def test_success_of_add(endpoint: Callable[[], Endpoint], config: Config) -> None:
    """spec: ADD exits with 0 and prints the result, one JSON object and nothing else."""
    outcome = endpoint().call("ADD", config)
    assert outcome.code == 0
    assert isinstance(json.loads(outcome.stdout), dict)
    assert outcome.stderr == b""


@pytest.mark.parametrize("command", SILENT)
def test_success_without_output(silent: Callable[[str], Outcome], command: str) -> None:
    """spec: success of the other commands is exit status 0 and nothing on stdout.

    Nor on stderr: the reference library copies it to the runtime's own.
    """
    outcome = silent(command)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    "failure",
    [pytest.param(name, marks=pytest.mark.needs(*NEEDS.get(name, []))) for name in FAILURES],
)
def test_failure(call: Call, config: Config, failure: str) -> None:
    """spec: a failure has an exit status other than 0 and one error object on stdout."""
    command, members, variables = FAILURES[failure]
    outcome = call(command, config | members, **variables)
    error = outcome.error()
    assert error.keys() <= {"cniVersion", "code", "msg", "details"}
    assert error["cniVersion"] in cni.VERSIONS
    assert isinstance(error.get("details", ""), str)


@pytest.mark.parametrize(
    "failure",
    [pytest.param(name, marks=pytest.mark.needs(*NEEDS.get(name, []))) for name in FAILURES],
)
def test_failure_has_a_code(call: Call, config: Config, failure: str) -> None:
    """Reference library: 999 is for failures that nobody thought of; each of these has its own."""
    command, members, variables = FAILURES[failure]
    outcome = call(command, config | members, **variables)
    assert (outcome.code, outcome.error()["code"] == 999) == (1, False)


def test_details_of_an_error(call: Call, config: Config) -> None:
    """spec: `details` is a longer message, where there is more to say."""
    error = call("ADD", config | {"cniVersion": "9.9.9"}, **SANDBOX).error()
    assert error["details"]


@pytest.mark.parametrize("version", cni.VERSIONS)
def test_version_of_an_error(call: Call, config: Config, version: str) -> None:
    """spec: an error's cniVersion is the configuration's."""
    invalid = config | {"cniVersion": version, "ipam": "x"}
    assert call("ADD", invalid, **SANDBOX).error()["cniVersion"] == version


@pytest.mark.parametrize("version", cni.VERSIONS)
def test_version_of_a_result(
    endpoint: Callable[[], Endpoint], config: Config, version: str
) -> None:
    """spec: a result is of the version that the configuration has."""
    assert endpoint().add(config | {"cniVersion": version})["cniVersion"] == version


@pytest.mark.parametrize("command", ["VERSION", "ADD"])
def test_answer_that_cannot_be_written(
    endpoint: Callable[[], Endpoint], config: Config, command: str
) -> None:
    """spec: without its answer on stdout a call has not succeeded."""
    eth0 = endpoint()
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        outcome = eth0.call(command, config, stdout=full)
    finally:
        os.close(full)
    assert outcome.code != 0
    assert b"Traceback" not in outcome.stderr
    eth0.delete(config)
    assert not cni.leases()
