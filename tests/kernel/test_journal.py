"""The log of operations, the time of their phases, and what the doctor reads from it."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests import cni
from tests.cni import Endpoint
from tests.commands import Cnm
from tests.iproute import HOST, Netns

MakeEndpoint = Callable[[], Endpoint]
Call = Callable[..., cni.Outcome]
PHASES = ["start", "configuration", "look", "addresses", "network", "links", "sandbox", "result"]


def lines(log: Path) -> list[dict[str, Any]]:
    """The log's lines, each of which must be whole."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_line_for_each_operation(endpoint: MakeEndpoint, tmp_path: Path) -> None:
    """It says what was done for whom, how long it took and where the time went."""
    log = tmp_path / "log"
    config = cni.network(logFile=str(log))
    one = endpoint()
    one.add(config, extra_env={"TRACEPARENT": "00-1-2-03"})
    one.call("ADD", config).error(cni.PLUGIN_SPECIFIC)
    one.delete(config)
    added, refused, deleted = lines(log)
    assert added["plugin"] == "bridge" and added["level"] == "info"
    assert (added["command"], added["network"]) == ("ADD", config["name"])
    assert (added["containerId"], added["ifname"]) == (one.container_id, one.ifname)
    assert (added["netns"], added["traceparent"]) == (one.netns.path, "00-1-2-03")
    assert list(added["phases"]) == PHASES
    assert abs(sum(added["phases"].values()) - added["ms"]) < 0.1
    assert refused["level"] == "error" and refused["code"] in cni.PLUGIN_SPECIFIC
    assert one.ifname in refused["msg"] and refused["details"]
    assert deleted["command"] == "DEL" and "links" in deleted["phases"]
    assert log.stat().st_mode & 0o777 == 0o600


def test_of_the_command_line(cnm: Cnm, netns: Callable[[], Netns], tmp_path: Path) -> None:
    """`cnm` is a runtime as well: the plugins that it runs get its log and its trace."""
    log, sandbox = tmp_path / "log", netns()
    variables = {"CNM_LOG": str(log), "CNM_TRACE": "1", "TRACEPARENT": "00-1-2-03"}
    cnm.run("network", "create", "blue")
    done = cnm.call("network", "connect", "blue", sandbox.name, **variables)
    assert done.code == 0 and done.err.startswith("bridge ADD: "), done
    (line,) = lines(log)
    assert (line["command"], line["traceparent"]) == ("ADD", "00-1-2-03")
    sandbox.ip("link", "delete", "eth0")
    HOST.run(["ip", "netns", "delete", sandbox.name])
    cnm.call("doctor", "--fix", **variables)
    assert [line["command"] for line in lines(log)] == ["ADD", "GC"]


def test_only_failures(endpoint: MakeEndpoint, tmp_path: Path) -> None:
    """Level error leaves out what went well."""
    log = tmp_path / "log"
    config = cni.network(logFile=str(log), logLevel="error")
    one = endpoint()
    one.add(config)
    one.call("ADD", config).error()
    one.delete(config)
    assert [line["command"] for line in lines(log)] == ["ADD"]


def test_log_of_the_environment(endpoint: MakeEndpoint, tmp_path: Path) -> None:
    """CNM_LOG is for configurations that name no log."""
    log, own = tmp_path / "log", tmp_path / "own"
    environment = {"CNM_LOG": str(log)}
    one = endpoint()
    one.add(cni.network(), extra_env=environment)
    one.delete(cni.network(logFile=str(own)), extra_env=environment)
    assert [line["command"] for line in lines(log)] == ["ADD"]
    assert [line["command"] for line in lines(own)] == ["DEL"]


def test_lines_stay_whole(endpoint: MakeEndpoint, tmp_path: Path) -> None:
    """Processes that write at once do not cut each other's lines."""
    log = tmp_path / "log"
    config = cni.network(logFile=str(log))
    several = [endpoint() for _ in range(8)]
    with ThreadPoolExecutor(len(several)) as pool:
        list(pool.map(lambda each: each.add(config), several))
        list(pool.map(lambda each: each.delete(config), several))
    assert len(lines(log)) == 2 * len(several)


def test_a_log_that_cannot_be_written(endpoint: MakeEndpoint, tmp_path: Path) -> None:
    """The operation is done all the same; stderr says what is wrong with the log."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    for log in (tmp_path, tmp_path / "none" / "log", link, Path("/dev/full")):
        one = endpoint()
        config = cni.network(logFile=str(log))
        outcome = one.call("ADD", config)
        assert outcome.result() and str(log) in outcome.stderr.decode(), log
        one.delete(config)
    assert not (tmp_path / "target").exists()


def test_wrong_keys(endpoint: MakeEndpoint) -> None:
    """They are refused by name before anything is made, and DEL succeeds."""
    for key, value in (("logFile", "log"), ("logFile", 1), ("logLevel", "loud")):
        one = endpoint()
        config = cni.network(**{key: value})
        assert key in one.call("ADD", config).error(cni.INVALID_CONFIG)["msg"]
        assert one.call("DEL", config).code == 0


def test_trace(endpoint: MakeEndpoint, call: Call) -> None:
    """CNM_TRACE shows on stderr what each phase cost; stdout is as always."""
    one = endpoint()
    outcome = one.call("ADD", cni.network(), extra_env={"CNM_TRACE": "1"})
    assert outcome.result()
    head, *rows = outcome.stderr.decode().splitlines()
    assert head.startswith("bridge ADD: ") and head.endswith(" ms")
    assert [row.split()[1] for row in rows] == PHASES
    assert all(float(row.split()[0]) >= 0 for row in rows)
    assert call("VERSION", extra_env={"CNM_TRACE": "1"}).json["supportedVersions"]
    one.delete(cni.network())


def test_silent_without(endpoint: MakeEndpoint) -> None:
    """Nothing is written where nobody asks for it."""
    one = endpoint()
    outcome = one.call("ADD", cni.network())
    assert outcome.result() and not outcome.stderr
    one.delete(cni.network())


def test_the_doctor_reads_it(cnm: Cnm, endpoint: MakeEndpoint, tmp_path: Path) -> None:
    """Failures of the last day, each sort once, with what was said of the last."""
    log = tmp_path / "log"
    config = cni.network(logFile=str(log))
    document = {
        "cniVersion": cni.NEWEST,
        "name": config["name"],
        "plugins": [cni.without(config, "name", "cniVersion")],
    }
    cnm.put("10-blue.conflist", document)
    one = endpoint()
    one.add(config)
    for _ in range(3):
        one.call("ADD", config).error()
    with log.open("a") as stale:
        old = {"time": "2020-01-01T00:00:00.000Z", "level": "error", "msg": "long ago"}
        stale.write(json.dumps(old) + '\n{"cut')
    said = cnm.call("doctor", "--format", "json").out.splitlines()
    found = [each for each in map(json.loads, said) if each["area"] == "log"]
    assert [each["status"] for each in found] == ["warning"]
    assert found[0]["subject"] == config["name"]
    assert "failed 3 times" in found[0]["message"] and "already exists" in found[0]["message"]
    one.delete(config)
