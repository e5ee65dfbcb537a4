"""The same tests over each plugin that they fit, and what they find as a table."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests import cni, iproute
from tests.cni import Config
from tests.conformance.table import Finding, Findings, document, markdown
from tests.iproute import HOST

# What a plugin has, of what tests need; `peer` is an interface of the host for each endpoint.
PLUGINS = {
    "bridge": {"addresses", "delegates", "interface", "mac", "peer", "sandbox"},
    "macvlan": {"addresses", "delegates", "interface", "mac", "sandbox"},
    "ipvlan": {"addresses", "delegates", "interface", "sandbox"},
    "host-local": {"addresses", "ipam"},
    "loopback": {"sandbox"},
}
PARENT = "up0"
SOURCES = {"spec": "specification", "Reference library": "library", "Conventions": "conventions"}
OURS = "ours"
LONGEST = 300  # characters of what was wrong


def pytest_configure(config: pytest.Config) -> None:
    path: Path | None = config.getoption("--report")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config, path))


class Recorder:
    """Collects what tests find, and writes it as JSON and as a table of markdown."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._path = path
        self._directory: Path = config.getoption("--cni-bin") or Path("dist/cnm/bin")
        self._version: str = config.getoption("--cni-version")
        self._found: dict[str, Finding] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the first failure of a test's set-up, call and end."""
        finding = dict(report.user_properties).get("finding")
        if finding is None or not (report.failed or report.nodeid not in self._found):
            return
        assert isinstance(finding, dict)
        found = self._found.setdefault(report.nodeid, Finding(**finding))
        if report.failed and found.failure is None:
            self._found[report.nodeid] = replace(found, failure=_one_line(report))

    def pytest_sessionfinish(self) -> None:
        directory = str(self._directory)
        found = Findings(directory, directory, self._version, tuple(self._found.values()))
        text = json.dumps(document(found), indent=1, ensure_ascii=False)
        for kind, content in (("json", f"{text}\n"), ("md", markdown([found]))):
            self._path.with_name(f"{self._path.name}.{kind}").write_text(content)


def _one_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    line = " ".join(str(crash.message if crash else report.longreprtext).split())
    return line if len(line) <= LONGEST else line[:LONGEST] + "…"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test once for each of the chosen plugins."""
    if "plugin" in metafunc.fixturenames:
        metafunc.parametrize("plugin", _chosen(metafunc.config))


def _chosen(config: pytest.Config) -> list[str]:
    asked: str | None = config.getoption("--plugin")
    if asked is None:
        return [name for name in PLUGINS if name != "ipvlan" or iproute.makes("ipvlan")]
    if unknown := set(asked.split(",")) - PLUGINS.keys():
        raise pytest.UsageError(f"--plugin {', '.join(unknown)}: not one of {', '.join(PLUGINS)}")
    return asked.split(",")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the plugins lack or are too old for; say what the rest is about."""
    newest = cni.VERSIONS.index(config.getoption("--cni-version"))
    kept, dropped = [], []
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            kept.append(item)
            continue
        parameters = getattr(item, "callspec").params  # noqa: B009, only functions have them
        needs = {what for mark in item.iter_markers("needs") for what in mark.args}
        if needs <= PLUGINS[parameters["plugin"]] and _since(item, parameters) <= newest:
            item.user_properties.append(("finding", asdict(_expected(item, parameters["plugin"]))))
            kept.append(item)
        else:
            dropped.append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def _since(item: pytest.Item, parameters: dict[str, Any]) -> int:
    versions = [mark.args[0] for mark in item.iter_markers("since")]
    if parameters.get("command") in ("GC", "STATUS"):
        versions.append("1.1.0")
    if parameters.get("version") in cni.VERSIONS:
        versions.append(parameters["version"])
    return max(map(cni.VERSIONS.index, versions), default=0)


def _expected(item: pytest.Item, plugin: str) -> Finding:
    """What is found where the test passes."""
    function = getattr(item, "function")  # noqa: B009, only functions have parameters
    module = item.getparent(pytest.Module)
    assert module is not None
    sentence = " ".join(function.__doc__.partition("\n\n")[0].split())
    prefix, colon, rest = sentence.partition(": ")
    known = colon and prefix in SOURCES
    return Finding(
        section=str(module.obj.__doc__).partition("\n")[0].partition(":")[0].rstrip("."),
        source=SOURCES[prefix] if known else OURS,
        sentence=rest if known else sentence,
        test=f"{item.path.name}::{function.__name__}",
        plugin=plugin,
        failure=None,
    )


@pytest.fixture
def config(plugin: str, config: Config, node: None) -> Config:
    """A network of the plugin under test, with the parent link that some plugins need."""
    if plugin not in ("macvlan", "ipvlan"):
        return config
    HOST.ip("link", "add", PARENT, "up", "type", "veth", "peer", "name", "down0")
    HOST.ip("link", "set", "down0", "up")
    return config | {"master": PARENT}


@pytest.fixture
def versions(version: str) -> list[str]:
    """The versions of the specification that the plugins are to know."""
    return list(cni.VERSIONS[: cni.VERSIONS.index(version) + 1])
