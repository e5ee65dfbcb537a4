"""VERSION (CNI spec 1.1.0, section 2)."""

from collections.abc import Callable

import pytest

from tests import cni
from tests.cni import Config, Outcome

Call = Callable[..., Outcome]


@pytest.mark.parametrize("asked", cni.VERSIONS)
def test_version_is_echoed(call: Call, asked: str, versions: list[str]) -> None:
    """spec: the answer has the cniVersion of the input, and all versions supported."""
    answer = call("VERSION", {"cniVersion": asked}).result()
    assert answer == {"cniVersion": asked, "supportedVersions": versions}


@pytest.mark.parametrize("text", [b"", b"\n", b"{}"])
def test_version_without_configuration(call: Call, text: bytes, versions: list[str]) -> None:
    """spec: VERSION needs nothing; then the answer is of the newest version."""
    answer = call("VERSION", text).result()
    assert answer == {"cniVersion": versions[-1], "supportedVersions": versions}


def test_version_with_stdin_closed(call: Call, versions: list[str]) -> None:
    """spec: VERSION needs nothing, not even a stdin."""
    answer = call("VERSION", stdin_closed=True).result()
    assert answer["supportedVersions"] == versions


def test_version_needs_only_the_command(call: Call, config: Config) -> None:
    """spec: no variable but CNI_COMMAND is required."""
    assert call("VERSION", config, path=None).result()["cniVersion"] == config["cniVersion"]


def test_version_among_dummies(call: Call, config: Config) -> None:
    """Reference library: it fills the variables with "dummy", which nobody is to look at."""
    dummies = {"netns": "dummy", "ifname": "dummy", "path": "dummy", "container_id": ""}
    assert call("VERSION", config, **dummies).result()["cniVersion"] == config["cniVersion"]
