"""`cnm agent`: the overlay's long-lived part."""

import asyncio
import json
from pathlib import Path

import click
from pydantic import ValidationError

from cnm_core.cli.main import INVALID, NOT_FOUND, Failure
from cnm_core.config.overlay import overlay_config
from cnm_core.schema.agent import AgentConfig
from cnm_core.schema.base import explain


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/etc/cnm/agent.json"),
    show_default=True,
    help="the agent's configuration",
)
def agent(path: Path) -> None:
    """Keep this host's side of overlay networks as the cluster has them."""
    from cnm_core.agent.main import run

    config = _read(path)
    fields = config.model_dump(exclude={"listenPort"}, exclude_none=True)
    asyncio.run(run(overlay_config({"subnets": [], **fields}), "127.0.0.1", config.listenPort))


def _read(path: Path) -> AgentConfig:
    try:
        return AgentConfig.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise Failure(
            f'there is no file "{path}"', advice="name another with --config", code=NOT_FOUND
        ) from None
    except OSError as error:
        raise Failure(f'cannot read "{path}": {error.strerror}') from None
    except ValidationError as error:
        raise Failure(f"{path}: {'; '.join(explain(error))}", code=INVALID) from None
    except ValueError as error:
        raise Failure(f"{path}: is not JSON: {error}", code=INVALID) from None
