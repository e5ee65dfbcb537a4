"""A fault at any system call of ADD and DEL: nothing is left, and nothing is given twice.

Each call of a plugin is run once for every system call that it makes after exec, with SIGKILL
before that system call, or with an error as its answer. What comes then is what runtimes send.
Afterwards all must be as it was before, beside a container that lives on throughout.
"""

import itertools
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import unified_diff
from pathlib import Path
from pprint import pformat

import pytest

from tests import cni
from tests.cni import Config, Endpoint, Outcome
from tests.conftest import STATE_DIRECTORIES
from tests.faults import strace
from tests.faults.conftest import LONG
from tests.faults.strace import Point
from tests.iproute import HOST, Netns, Snapshot, exchange_by_tcp, run

FindExecutable = Callable[[str], Path]
MakeNetns = Callable[[], Netns]
TakeSnapshot = Callable[..., Snapshot]
Tell = Callable[[str], None]

IN_USE, EXISTS, DEFECT = 103, 104, 999
SUBNETS = ("10.1.0.0/24", "fd00:1::/64")
POOL = {"ipam": cni.host_local(*SUBNETS)}
STRICT = {"ipMasq": True, "portIsolation": True, "macspoofchk": True}

# The plugins of a network in the order of its chain: faults happen to the last one.
CHAINS: dict[str, tuple[Config, ...]] = {
    "bridge": (cni.network("bridge", **POOL, **STRICT),),
    "portmap": (cni.network("bridge", **POOL), {"type": "portmap"}),
    "macvlan": (cni.network("macvlan", **POOL, master="uplink"),),
    "host-local": (cni.network("host-local", **POOL),),
    "overlay": (
        cni.without(cni.network("overlay"), "ipam")
        | {"subnets": [{"subnet": each} for each in SUBNETS]}
        | {"underlay": "uplink", "node": "node-1"},
    ),
}
PUBLISHING = ("bridge", "portmap")
COMMANDS = ("ADD", "DEL")


@dataclass(frozen=True)
class Container:
    """A container as its runtime sees it: what it calls for it, with what."""

    plugins: tuple[Endpoint, ...]
    configs: tuple[Config, ...]

    @property
    def last(self) -> Endpoint:
        """The endpoint, to the plugin that faults happen to."""
        return self.plugins[-1]

    def begin(self) -> Config:
        """ADD of all plugins but the last; the configuration for that one."""
        previous: Config = {}
        for plugin, config in zip(self.plugins[:-1], self.configs[:-1], strict=True):
            previous = {"prevResult": plugin.add(config | previous)}
        return self.configs[-1] | previous

    def add(self) -> Config:
        """ADD; the result."""
        return self.last.add(self.begin())

    def check(self, result: Config) -> None:
        """CHECK, which must find nothing."""
        for plugin, config in zip(self.plugins, self.configs, strict=True):
            plugin.check(config, result).silent()

    def undo(self) -> None:
        """DEL of all plugins but the last."""
        for plugin, config in zip(self.plugins[-2::-1], self.configs[-2::-1], strict=True):
            plugin.delete(config)

    def delete(self) -> None:
        """DEL, of the last plugin first."""
        self.last.delete(self.configs[-1])
        self.undo()

    def collect(self, *others: "Container") -> None:
        """GC, to which others are valid."""
        nobody = {"container_id": None, "netns": None, "ifname": None}
        for plugin, config in zip(self.plugins, self.configs, strict=True):
            valid = cni.collected(config, *(each.last for each in others))
            plugin.call("GC", valid, **nobody).silent()


@dataclass(frozen=True)
class Place:
    """A container to which faults happen, beside one that lives on."""

    victim: Container
    other: Container
    others_result: Config
    look: Callable[[], Snapshot]
    before: Snapshot

    def nothing_left(self) -> None:
        """Assert that all is as it was, the other container too."""
        seen = self.look()
        if seen == self.before:
            return
        parts = ((name, getattr(self.before, name), getattr(seen, name)) for name in vars(seen))
        pytest.fail("\n".join(f"{name}:\n{_changes(*two)}" for name, *two in parts))

    def nothing_half_written(self) -> None:
        """Assert that no file is left of those that are written before they are put in place.

        Of an overlay one may be, which the next call writes over.
        """
        if self.victim.configs[-1]["type"] == "overlay":
            return
        found = [path for root in STATE_DIRECTORIES for path in root.rglob(".*")]
        assert not [path for path in found if path.suffix in (".new", ".claim")]

    def goes_on(self) -> None:
        """Assert that the next ADD gives what nobody else has, and that DEL takes it back."""
        self.attached(self.victim.add())
        self.victim.delete()
        self.nothing_left()
        self.other.check(self.others_result)

    def attached(self, result: Config) -> None:
        """Assert that the container is as a result says, and has nothing of the other one."""
        assert not {*cni.addresses(result)} & {*cni.addresses(self.others_result)}
        self.victim.check(result)

    def reset(self) -> None:
        """Begin anew after a failure, so that it is not found again at the next system call."""
        self.victim.delete()
        self.victim.collect(self.other)


def _changes(before: object, after: object) -> str:
    """The lines of a part of a snapshot that are not in both."""
    two = (pformat(part, width=1000).replace("\\n", "\n").splitlines() for part in (before, after))
    return "\n".join(line for line in unified_diff(*two, lineterm="", n=0) if line[:2] != "@@")


@pytest.fixture
def container(
    executable: FindExecutable, cni_bin: Path, netns: MakeNetns
) -> Callable[[str, int], Container]:
    """Makes a container of a chain with a sandbox of its own, and a port of the host."""

    def make(chain: str, port: int) -> Container:
        sandbox = netns()
        *configs, last = CHAINS[chain]
        last = {"cniVersion": cni.NEWEST, "name": "blue"} | last
        if chain in PUBLISHING:
            ports = [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]
            last |= {"runtimeConfig": {"portMappings": ports}}
        configs.append(last)
        found = [executable(each["type"]) for each in configs]
        plugins = [Endpoint(each, str(cni_bin), f"id-{sandbox.name}", sandbox) for each in found]
        return Container(tuple(plugins), tuple(configs))

    return make


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Says what a long run has done."""

    def say(text: str) -> None:
        if LONG:
            with capsys.disabled():
                print(f"\n{text}")

    return say


@pytest.fixture
def place(chain: str, container: Callable[[str, int], Container], snapshot: TakeSnapshot) -> Place:
    """Two containers of a network, one of which is attached."""
    HOST.ip("link", "add", "uplink", "type", "veth", "peer", "name", "far")
    HOST.ip("addr", "add", "192.0.2.1/24", "dev", "uplink")
    for end in ("uplink", "far"):
        HOST.ip("link", "set", end, "up")
    other, victim = container(chain, 8080), container(chain, 8081)
    result = other.add()
    victim.add()
    victim.delete()

    def look() -> Snapshot:
        seen = snapshot(other.last.netns, victim.last.netns)
        kept = {path: text for path, text in seen.files.items() if not _counts(path)}
        return replace(seen, files=kept)

    return Place(victim, other, result, look, look())


def _counts(path: str) -> bool:
    """Whether a file of an overlay tells of changes, and not of what there is.

    What a kill leaves of a journal that is being written the next transaction writes over.
    """
    names = ("/cluster/revision", "/cluster/history", "/cluster/.journal.new")
    return path.endswith(names) or "/.overlay/" in path


def _prepare(place: Place, command: str) -> Config:
    """Come to where the last plugin is to be called; its configuration."""
    config = place.victim.begin()
    if command == "DEL":
        place.victim.last.add(config)
    return config


def _points(place: Place, command: str, directory: Path) -> list[Point]:
    """The system calls of a command that succeeds."""
    config = _prepare(place, command)
    found = strace.traced(place.victim.last, command, config, directory)
    place.victim.delete()
    place.nothing_left()
    return found


def _served(place: Place) -> None:
    """Assert that the other container answers, at its port of the host too."""
    netns, addresses = place.other.last.netns, cni.addresses(place.others_result)
    chain = place.other.configs[-1]["type"]
    if chain in ("bridge", "portmap", "overlay"):
        for address in addresses:
            assert exchange_by_tcp(HOST, netns, address, b"hello") == b"hello"
    if chain in PUBLISHING:
        with netns.entered():
            listener = socket.create_server(("", 80))
        with listener, socket.create_connection(("10.1.0.1", 8080), timeout=cni.PATIENCE):
            listener.accept()[0].close()


# --- SIGKILL: what comes next


def _delete(place: Place, _: Config) -> None:
    place.victim.delete()
    place.victim.collect(place.other)


def _collect(place: Place, _: Config) -> None:
    place.victim.collect(place.other)


def _add(place: Place, config: Config) -> None:
    """ADD, which may find what the dead one had come to: then the runtime sends DEL."""
    outcome = place.victim.last.call("ADD", config)
    if outcome.code:
        assert outcome.error()["code"] in (IN_USE, EXISTS)
        place.victim.delete()
        outcome = place.victim.last.call("ADD", place.victim.begin())
    place.attached(outcome.result())
    place.victim.delete()


REPAIRS = (_delete, _collect, _add)
# One of how many system calls is met in a run that is not long.
EVERY = {"bridge": 4, "portmap": 7, "macvlan": 7, "host-local": 7, "overlay": 32}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("command", COMMANDS)
def test_killed(place: Place, tmp_path: Path, command: str, chain: str, tell: Tell) -> None:
    """Whatever the moment: DEL and GC, GC alone, and ADD and DEL leave nothing."""
    points = _points(place, command, tmp_path)
    tries = list(itertools.product(points, REPAIRS))
    if not LONG:
        tries = list(zip(points, itertools.cycle(REPAIRS), strict=False))[:: EVERY[chain]]
    killed, found = 0, []
    for at, repair in tries:
        config = _prepare(place, command)
        killed += strace.killed(place.victim.last, command, config, at)
        try:
            repair(place, config)
            place.nothing_left()
            if repair != _add:
                place.nothing_half_written()
        except (AssertionError, pytest.fail.Exception) as error:
            found.append(f"killed before {at}, then {repair.__name__[1:]}: {error}")
            place.reset()
    tell(f"{command} {chain}: {len(points)} system calls, {killed} kills, {len(found)} leaks")
    assert not found, "\n\n".join(found)
    assert killed > 0.9 * len(tries)  # how often some calls are made is a matter of timing
    place.goes_on()
    _served(place)


# --- errors

_FILES = ("EIO", "ENOSPC", "ENOMEM", "EMFILE", "EROFS", "EINTR")
_SOCKETS = ("ENOMEM", "ENOBUFS", "EMFILE", "EPERM", "EINTR")
_PROCESSES = ("EAGAIN", "ENOMEM", "EMFILE")
_WHICH = {
    "openat close read write pread64 pwrite64 lseek ftruncate fsync flock fcntl": _FILES,
    "mkdir rmdir link symlink readlink rename unlink newfstatat utimensat getdents64": _FILES,
    "socket bind setsockopt sendto recvfrom ioctl poll setns": _SOCKETS,
    "pipe2 clone": _PROCESSES,
}
ERRORS = {name: errors for names, errors in _WHICH.items() for name in names.split()}
# These come once: the kernel forgets them when it has told.
_MOMENTARY = ("EINTR", "ENOBUFS")
# Of what is tried, one of how many in a run that is not long.
SHARE = {"bridge": 29, "portmap": 17, "macvlan": 23, "host-local": 17, "overlay": 29}


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("command", COMMANDS)
def test_refused(
    place: Place, tmp_path: Path, command: str, chain: str, lasting: bool, tell: Tell
) -> None:
    """A call that fails says why; what an ADD had made it takes back, or else DEL does.

    It need not fail: there may be another way, or no need.
    """
    points = _points(place, command, tmp_path)
    tries = _tries(points, lasting=lasting, one_each=lasting or chain == "overlay")
    tries = tries if LONG else tries[:: SHARE[chain]]
    failed, found = 0, []
    for at, error in tries:
        try:
            failed += _refuse(place, command, at, error, lasting=lasting).code
        except (AssertionError, pytest.fail.Exception) as problem:
            found.append(f"{error} from {at}: {problem}")
            place.reset()
    tell(
        f"{command} {chain}: {len(points)} system calls, {len(tries)} errors "
        f"{'from then on' if lasting else 'once'}, {failed} failed, {len(found)} wrong"
    )
    assert not found, "\n\n".join(found)
    assert failed or not tries
    place.goes_on()
    place.victim.collect(place.other)
    place.nothing_half_written()
    _served(place)


def _tries(
    points: list[Point], *, lasting: bool = False, one_each: bool = False
) -> list[tuple[Point, str]]:
    """System calls with the errors that they fail with: all of those, or one for each in turn."""
    found = []
    for turn, at in enumerate(each for each in points if each.syscall in ERRORS):
        kept = [each for each in ERRORS[at.syscall] if not (lasting and each in _MOMENTARY)]
        found += [(at, each) for each in (kept[turn % len(kept) :][:1] if one_each else kept)]
    return found


def _refuse(place: Place, command: str, at: Point, error: str, *, lasting: bool = False) -> Outcome:
    """Have a system call fail; how the command ended, of which nothing may be left."""
    config = _prepare(place, command)
    outcome = strace.failing(place.victim.last, command, config, at, error, from_then_on=lasting)
    _said(outcome, at)
    if command == "ADD" and outcome.code == 0:
        place.attached(outcome.result())
    elif command == "ADD" and not lasting:
        place.victim.undo()
        place.nothing_left()
    place.victim.delete()
    place.nothing_left()
    return outcome


def _said(outcome: Outcome, at: Point) -> None:
    """Assert that a call ended as the specification wants it, and not by a defect."""
    assert b"Traceback" not in outcome.stderr
    if outcome.code == 0:
        return
    assert outcome.code == 1
    if outcome.stdout or at.syscall != "write":  # or else it could not even say so
        assert outcome.error()["code"] != DEFECT


# Where these tests have found something: a system call, with what it is about, and its error.
@pytest.mark.parametrize(
    ("chain", "command", "syscall", "about", "error"),
    [
        ("bridge", "ADD", "recvfrom", "RTM_NEWLINK", "ENOMEM"),
        ("macvlan", "ADD", "recvfrom", "RTM_NEWLINK", "ENOMEM"),
        ("portmap", "ADD", "recvfrom", "NFT_MSG_NEWSETELEM", "ENOMEM"),
        ("host-local", "ADD", "flock", "LOCK_UN", "EIO"),
        ("macvlan", "ADD", "flock", "LOCK_UN", "EIO"),
        ("bridge", "ADD", "setns", "net:[", "ENOMEM"),
        ("overlay", "ADD", "recvfrom", "RTM_NEWLINK", "ENOMEM"),
        ("overlay", "ADD", "openat", "/cluster/history", "EIO"),
        ("host-local", "ADD", "write", "cniVersion", "EPIPE"),
        ("bridge", "ADD", "write", "cniVersion", "EPIPE"),
        ("bridge", "DEL", "openat", "/run/cnm/blue/id-", "EMFILE"),
        ("bridge", "DEL", "read", "/run/cnm/blue/id-", "EIO"),
        ("host-local", "DEL", "openat", "/networks/blue/10.1.", "EMFILE"),
        ("host-local", "DEL", "read", "/networks/blue/10.1.", "EIO"),
    ],
)
def test_found(
    place: Place, tmp_path: Path, command: str, syscall: str, about: str, error: str
) -> None:
    """What failed once: an answer that was not awaited, a file that counted as damaged."""
    points = _points(place, command, tmp_path)
    met = [each for each in points if each.syscall == syscall and about in each.arguments]
    assert met
    for at in met:
        _refuse(place, command, at, error)


@pytest.mark.parametrize(
    ("chain", "syscall", "about"),
    [("host-local", "link", ".claim"), ("portmap", "rename", ".new")],
)
def test_half_written(place: Place, tmp_path: Path, syscall: str, about: str) -> None:
    """A file that a killed ADD had begun goes with GC."""
    points = _points(place, "ADD", tmp_path)
    for at in (each for each in points if each.syscall == syscall and about in each.arguments):
        assert strace.killed(place.victim.last, "ADD", _prepare(place, "ADD"), at)
        _collect(place, {})
        place.nothing_left()
        place.nothing_half_written()


@pytest.mark.parametrize("chain", ["overlay"])
def test_one_address_freed(place: Place, tmp_path: Path) -> None:
    """A DEL that is killed between two addresses leaves none of them in the store."""
    for at in _points(place, "DEL", tmp_path):
        if at.syscall == "unlink" and "/networks/blue/" in at.arguments:
            _prepare(place, "DEL")
            assert strace.killed(place.victim.last, "DEL", place.victim.configs[-1], at)
            place.victim.delete()
            place.nothing_left()


@pytest.mark.parametrize("chain", ["bridge"])
def test_refused_for_good(place: Place, tmp_path: Path) -> None:
    """What an ADD cannot take back either stays in its record, for DEL."""
    points = _points(place, "ADD", tmp_path)
    sent = [each for each in points if each.syscall == "sendto"]
    pair = next(each for each in sent if '"veth"' in each.arguments)
    for at in (pair, sent[sent.index(pair) + 1]):
        _refuse(place, "ADD", at, "ENOMEM", lasting=True)


# --- of an ADD that makes the network too


@pytest.mark.parametrize("chain", ["bridge"])
def test_first_refused(
    container: Callable[[str, int], Container], tmp_path: Path, chain: str, tell: Tell
) -> None:
    """An ADD that fails takes the network back, too, which it had begun to make."""
    first = container(chain, 8080)
    first.add()
    _forget_network(first)
    points = strace.traced(first.last, "ADD", first.configs[-1], tmp_path)
    tries = _tries(points) if LONG else _tries(points)[::53]
    failed, found = 0, []
    for at, error in tries:
        _forget_network(first)
        outcome = strace.failing(first.last, "ADD", first.configs[-1], at, error)
        failed += outcome.code
        try:
            _said(outcome, at)
            if outcome.code:
                _never_there(first)
                outcome = first.last.call("ADD", first.configs[-1])
            first.check(outcome.result())
        except AssertionError as problem:
            found.append(f"{error} from {at}: {problem}")
    tell(f"first ADD: {len(points)} system calls, {len(tries)} errors, {failed} failed")
    assert failed
    assert not found, "\n\n".join(found)


def _forget_network(container: Container) -> None:
    """Have the network's first ADD be the next."""
    container.delete()
    if "blue0" in HOST.links():
        HOST.ip("link", "delete", "blue0")
    run("nft", "flush", "ruleset")
    run("find", *map(str, STATE_DIRECTORIES), "-mindepth", "1", "-delete")


def _never_there(container: Container) -> None:
    """Assert that neither the container nor its network has anything."""
    assert HOST.links().keys() == container.last.netns.links().keys() == {"lo"}
    assert not cni.leases()
    assert not [path for path in Path("/run/cnm").rglob("*") if path.name not in ("blue", ".lock")]
    assert "blue" not in run("nft", "list", "ruleset")
