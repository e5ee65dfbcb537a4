"""The agent's configuration, which tells the command line where the cluster is."""

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from pydantic import ValidationError

from cnm_core.cli.main import INVALID, NOT_FOUND, Failure
from cnm_core.schema.agent import AgentConfig
from cnm_core.schema.base import explain
from cnm_core.schema.overlay import StoreConfig

DEFAULT_FILE = Path("/etc/cnm/agent.json")
VARIABLE = "CNM_AGENT_CONFIG"


def _named(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    """Refuse a file that was named and is not there: without one a host is alone."""
    source = context.get_parameter_source(parameter.name or "")
    if source is ParameterSource.COMMANDLINE and not path.exists():
        raise _missing(path, "--agent-config")
    return path


agent_option = click.option(
    "--agent-config",
    "agent_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_FILE,
    show_default=True,
    envvar=VARIABLE,
    show_envvar=True,
    callback=_named,
    help="The agent's configuration; without one an overlay is of this host alone.",
)


def read(path: Path, option: str) -> AgentConfig:
    """The configuration in a file, which `option` names. Raises Failure."""
    try:
        return AgentConfig.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise _missing(path, option) from None
    except OSError as error:
        raise Failure(f'cannot read "{path}": {error.strerror}') from None
    except ValidationError as error:
        # What the file as a whole is has no place in it.
        problems = "; ".join(each.removeprefix(": ") for each in explain(error))
        raise Failure(f"{path}: {problems}", code=INVALID) from None
    except ValueError as error:
        raise Failure(f"{path}: is not JSON: {error}", code=INVALID) from None


def unknown_keys(path: Path) -> list[str]:
    """The keys of a configuration that `read` takes, and that say nothing."""
    document = json.loads(path.read_bytes())
    found = [key for key in document if key not in AgentConfig.model_fields]
    store = document.get("store") or {}
    return found + [f"store.{key}" for key in store if key not in StoreConfig.model_fields]


def network_keys(path: Path) -> dict[str, Any]:
    """The keys that it shares with this host's networks, as far as it says them."""
    if not path.exists():
        return {}
    config = read(path, "--agent-config")
    return host_keys(config)


def host_keys(config: AgentConfig) -> dict[str, Any]:
    """The keys of a network on this host that an agent's configuration says."""
    return config.model_dump(
        exclude={"listenPort", "confDir"}, exclude_none=True, exclude_unset=True
    )


def _missing(path: Path, option: str) -> Failure:
    return Failure(
        f'there is no file "{path}"', advice=f"name another with {option}", code=NOT_FOUND
    )
