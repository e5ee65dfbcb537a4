"""Another version of the plugins takes over containers that an older one added.

`records` has what real builds of the commits in their names wrote of one endpoint: each
first one of a new shape. Members that came later are missing in them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import Config, Endpoint, Outcome
from tests.faults.test_kills import dual, published
from tests.iproute import Snapshot, run

RECORDS = sorted((Path(__file__).parent / "records").glob("*.json"))

Call = Callable[..., Outcome]
MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

__all__ = ["dual"]


def _in_shape_of(old: Any, new: Any) -> Any:
    """What a record of today says, as far as an older one has room for it."""
    if isinstance(old, dict):
        assert old.keys() <= new.keys()
        return {key: _in_shape_of(value, new[key]) for key, value in old.items()}
    if isinstance(old, list) and old and isinstance(old[0], dict):
        return [_in_shape_of(old[0], each) for each in new]
    return new


def _age_index() -> None:
    """Have the index know no boots, as it was at first."""
    for owner in (cni.LEASES / ".cnm/blue/owners").iterdir():
        target = str(owner.readlink()).partition("@")[0]
        owner.unlink()
        owner.symlink_to(target)


@pytest.mark.parametrize("record", RECORDS, ids=lambda each: each.stem)
@pytest.mark.parametrize("end", ["DEL", "GC"])
def test_from_older_records(
    endpoint: MakeEndpoint,
    call: Call,
    snapshot: TakeSnapshot,
    dual: Config,
    record: Path,
    end: str,
) -> None:
    """CHECK finds nothing wrong, rules come back after a flush, and nothing is left of it."""
    old = json.loads(record.read_text())
    config = dual | {"ipMasq": True, "macspoofchk": "sourceChecked" in old}
    eth0, new = endpoint(), endpoint()
    eth0.add(published(config, 8080))
    eth0.delete(config)
    before = snapshot(eth0.netns, new.netns)
    result = eth0.add(published(config, 8080))
    path = Path(f"/run/cnm/blue/{eth0.container_id}:eth0")
    today = json.loads(path.read_text())
    path.write_text(json.dumps(_in_shape_of(old, today)))
    _age_index()
    eth0.check(published(config, 8080), result).silent()
    other = new.add(published(config, 8081))
    assert not set(cni.addresses(result)) & set(cni.addresses(other))
    run("nft", "flush", "ruleset")
    new.delete(config)
    new.add(published(config, 8081))
    eth0.check(published(config, 8080), result).silent()
    new.delete(config)
    if end == "DEL":
        eth0.delete(published(config, 8080), result)
    else:
        call("GC", cni.collected(config)).silent()
    assert snapshot(eth0.netns, new.netns) == before


def test_from_a_newer_record(
    endpoint: MakeEndpoint, call: Call, snapshot: TakeSnapshot, dual: Config
) -> None:
    """Members that a later version may add change nothing for this one."""
    config = published(dual, 8080)
    eth0 = endpoint()
    eth0.add(config)
    eth0.delete(config)
    before = snapshot(eth0.netns)
    result = eth0.add(config)
    path = Path(f"/run/cnm/blue/{eth0.container_id}:eth0")
    today = json.loads(path.read_text())
    today |= {"later": {"than": "this"}, "policy": today["policy"] | {"later": 1}}
    path.write_text(json.dumps(today))
    eth0.check(config, result).silent()
    call("GC", cni.collected(config, eth0)).silent()
    eth0.check(config, result).silent()
    eth0.delete(config, result)
    assert snapshot(eth0.netns) == before


@pytest.mark.parametrize("sandbox", ["there", "gone"])
def test_back_from_another_format(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, dual: Config, sandbox: str
) -> None:
    """A version that was put back cannot read the record: CHECK says so, and DEL takes all."""
    config = dual | {"ipMasq": True, "macspoofchk": True}
    other, eth0 = endpoint(), endpoint()
    other.add(published(config, 8081))
    eth0.add(published(config, 8080))
    eth0.delete(config)
    before = snapshot(other.netns)
    result = eth0.add(published(config, 8080))
    path = Path(f"/run/cnm/blue/{eth0.container_id}:eth0")
    path.write_text(json.dumps({"format": 2, "all": "else"}))
    error = eth0.check(published(config, 8080), result).error(101)
    assert "format" in error["msg"]
    eth0.delete(published(config, 8080), netns=eth0.netns.path if sandbox == "there" else "")
    assert snapshot(other.netns) == before
    assert eth0.netns.links().keys() == {"lo"}
