"""deploy/: the manifest by Kubernetes' schemas, and the image as the manifest runs it."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from plugins import EXECUTABLES
from tests import cni
from tests.docker import Docker, daemon

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
# Long supported, and newest, of those whose schemas there are.
KUBERNETES = ("1.25", kubernetes_validate.latest_version())


@pytest.fixture
def manifest() -> dict[str, Any]:
    """The DaemonSet."""
    (document,) = yaml.safe_load_all((DEPLOY / "daemonset.yaml").read_text())
    return dict(document)


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    """By the schemas of the API, strictly: a key of no meaning is an error."""
    kubernetes_validate.validate(manifest, version, strict=True)


def test_manifest_selects_its_own_pods(manifest: dict[str, Any]) -> None:
    """What a schema does not see, and an API server would refuse or never start."""
    spec = manifest["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    (container,) = spec["template"]["spec"]["containers"]
    volumes = {each["name"] for each in spec["template"]["spec"]["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == volumes


@pytest.fixture
def docker(node: None, docker_plugins: Path, tmp_path: Path) -> Iterator[Docker]:
    """A dockerd without any image."""
    with daemon(tmp_path) as client:
        yield client


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + cni.PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_image(docker: Docker, release: Path, manifest: dict[str, Any], tmp_path: Path) -> None:
    """Built without a registry, run with the manifest's directories, rights and words: it
    installs, is ready, and takes all away again when that is asked for.
    """
    context = tmp_path / "context"
    context.mkdir()
    shutil.copy("/bin/busybox", context)
    shutil.copy(DEPLOY / "Dockerfile", context)
    (archive,) = release.glob("*.tar.gz")
    shutil.copy(archive, context / "cnm.tar.gz")
    docker.run("build", "--tag", "cnm", str(context))

    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    host = tmp_path / "host"
    places = {each["name"]: host / each["hostPath"]["path"].lstrip("/") for each in pod["volumes"]}
    options = ["--network", "host", "--read-only", "--user", "0"]
    for verb, names in container["securityContext"]["capabilities"].items():
        options += [f"--cap-{verb}={name}" for name in names]
    for mount in container["volumeMounts"]:
        places[mount["name"]].mkdir(parents=True)
        options += ["--volume", f"{places[mount['name']]}:{mount['mountPath']}"]
    bridge = places["plugins"] / "bridge"
    bridge.write_text("theirs")
    for each in (bridge, bridge.parent):  # as an archive of other plugins may have left it
        os.chown(each, 1001, 1001)

    docker.run("run", "--detach", "--name", "one", *options, "cnm", *container["args"])
    ready = container["readinessProbe"]["exec"]["command"]
    until(lambda: docker.call("exec", "one", *ready).returncode == 0)
    assert {each.name for each in places["plugins"].glob("[!.]*")} == set(EXECUTABLES)
    assert cni.call(bridge, "VERSION").result()["supportedVersions"] == list(cni.VERSIONS)
    assert len({each.stat().st_ino for each in places["plugins"].glob("[!.]*")}) == 1
    assert (places["command"] / "bin/cnm").resolve() == places["command"] / "lib/cnm/cnm"

    docker.run("stop", "one")
    assert bridge.stat().st_size > 1 << 20, "the end of a pod took the plugins away"
    (name,) = (each["name"] for each in container["env"])
    docker.run("run", "--detach", "--name", "two", "--env", f"{name}=true", *options, "cnm", "run")
    until(lambda: "opt/cnm/bin/cnm" in docker.run("logs", "two"))
    docker.run("stop", "two")
    assert [each.name for each in places["plugins"].iterdir()] == ["bridge"]
    assert bridge.read_text() == "theirs"
    assert not [each for each in places["command"].rglob("*") if not each.is_dir()]
