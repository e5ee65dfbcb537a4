"""`cnm network rm` and `prune`: networks go, with all that was made for them."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from cnm_core.cli import endpoints, output, overlays, plugins, pool_use
from cnm_core.cli.conflists import Conflist, Directory
from cnm_core.cli.drivers import open_network, state_dir
from cnm_core.cli.main import IN_THE_WAY, Failure
from cnm_core.cli.network import directory_option
from cnm_core.cli.plugins import Attachment, path_option
from cnm_core.cni.pools import REMOTE
from cnm_core.config.remote import remote_config
from cnm_core.controller import NetworkController
from cnm_core.errors import Error
from cnm_core.ipam.remote import Remote
from cnm_core.store import files
from cnm_core.store.endpoints import EndpointStore


@click.command("rm")
@directory_option
@path_option
@click.option(
    "-f", "--force", is_flag=True, help="Detach endpoints first; take files made by hand too."
)
@click.argument("names", metavar="NETWORK...", nargs=-1, required=True)
def rm(directory: Directory, path: tuple[str, ...], names: tuple[str, ...], force: bool) -> None:
    """Remove networks: links, rules, addresses, records, and the file last.

    A network that has endpoints stays as it is, unless forced.
    """
    _remove_all(directory, path, names, force=force)


@click.command("prune")
@directory_option
@path_option
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
def prune(directory: Directory, path: tuple[str, ...], force: bool) -> None:
    """Remove every network that cnm made and that has no endpoint."""
    if not force:
        click.echo("This will remove all networks that cnm made and no container uses.", err=True)
        click.confirm("Are you sure you want to continue?", abort=True, err=True)
    networks, _ = directory.read()
    unused = [each.name for each in networks if each.is_ours and _is_unused(each)]
    _remove_all(directory, path, unused, force=False)


def _is_unused(network: Conflist) -> bool:
    """Whether no endpoint is known, here or of an overlay anywhere."""
    if endpoints.of_network(network):
        return False
    if not network.is_overlay:
        return True
    seen = overlays.look(network)
    return seen.answered and not seen.endpoints


def _remove_all(
    directory: Directory, path: tuple[str, ...], names: Sequence[str], *, force: bool
) -> None:
    """Remove each and print its name; what fails does not keep the others."""
    failures: list[Failure] = []
    for name in names:
        try:
            if force:
                _detach_all(directory.find(name), path)
            with directory:
                network = directory.find(name)
                _refuse(network, force=force)
                _clear(network)
                directory.remove(network)
            click.echo(name)
        except Failure as failure:
            failures.append(failure)
        except Error as error:
            failures.append(Failure(f"network {name}: {error.msg}", advice=error.details))
    for each in failures[:-1]:
        output.warn(f"{each.message}; {each.advice}".rstrip("; "))
    if failures:
        raise failures[-1]


def _detach_all(network: Conflist, path: tuple[str, ...]) -> None:
    """DEL of every endpoint; no lock is held meanwhile, since plugins take their own."""
    _refuse_foreign(network, force=True)
    if network.is_overlay:
        overlays.removal(network).refuse()
    for each in endpoints.of_network(network):
        plugins.delete(network, Attachment(each.key, each.netns), path)


def _refuse(network: Conflist, *, force: bool) -> None:
    _refuse_foreign(network, force=force)
    attached = endpoints.of_network(network)
    if attached:
        number = f"{len(attached)} endpoints" if len(attached) > 1 else "an endpoint"
        raise Failure(
            f'network "{network.name}" has {number}, {attached[0].key} among them',
            advice="disconnect them, or have -f do it",
            code=IN_THE_WAY,
        )


def _refuse_foreign(network: Conflist, *, force: bool) -> None:
    """Files of other tools are theirs; those without a mark may be somebody's work."""
    if network.owner in ("nerdctl", "podman"):
        raise Failure(
            f'network "{network.name}" is one of {network.owner} ({network.path})',
            advice=f"remove it with: {network.owner} network rm {network.name}",
            code=IN_THE_WAY,
        )
    if not network.is_ours and not force:
        raise Failure(
            f'network "{network.name}" was not made by cnm ({network.path})',
            advice="-f removes it all the same",
            code=IN_THE_WAY,
        )


def _clear(network: Conflist) -> None:
    """All that was made for the network but its file, by which a killed call is repeated."""
    overlay = overlays.removal(network) if network.is_overlay else None
    if overlay:
        overlay.refuse()
    clear_host(network, before_addresses=overlay.finish if overlay else None)


def clear_host(network: Conflist, before_addresses: Callable[[], None] | None = None) -> None:
    """All that this host has of a network but its file."""
    driver, of_driver = open_network(network.name, network.driver_config)
    state = state_dir(network.driver_config)
    NetworkController(driver, EndpointStore(state)).delete_network(of_driver)
    if before_addresses:
        before_addresses()
    if network.is_overlay or pool_use.is_host_local(network):
        data = pool_use.data_dir(network)
        _remove_tree(Path(data, network.name))
        _remove_tree(Path(data, ".cnm", network.name))
        for kind in ("claim", "resting"):
            files.remove(f"{data}/.cnm/.{network.name}.{kind}")
    elif network.ipam.get("type") == REMOTE:
        remote = remote_config(network.ipam, "ipam")
        Remote(network.name, remote, output.warn).collect(())
        _remove_tree(Path(remote.data_dir, network.name))
    for directory in (f"{state}/{network.name}", f"{state}/.portmap/{network.name}"):
        _remove_records(directory, network)


def _remove_records(directory: str, network: Conflist) -> None:
    """The directory of records, unless somebody was attached in this very moment."""
    files.remove(f"{directory}/.lock")
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Failure(
            f'cannot remove "{directory}": {error.strerror}',
            advice=f'network "{network.name}" has got an endpoint meanwhile; try again',
            code=IN_THE_WAY,
        ) from None


def _remove_tree(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise files.failure("remove", str(path), error) from None
