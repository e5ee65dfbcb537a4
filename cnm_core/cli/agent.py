"""`cnm agent`: the overlay's long-lived part."""

import asyncio
import os
import socket
from pathlib import Path

import click

from cnm_core.cli import agent_config
from cnm_core.cli.main import Failure
from cnm_core.config.overlay import overlay_config


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=agent_config.DEFAULT_FILE,
    show_default=True,
    envvar=agent_config.VARIABLE,
    show_envvar=True,
    help="the agent's configuration",
)
def agent(path: Path) -> None:
    """Keep this host's side of overlay networks as the cluster has them."""
    from cnm_core.agent.main import run

    config = agent_config.read(path, "--config")
    unknown = agent_config.unknown_keys(path)
    keys = agent_config.host_keys(config)
    options = overlay_config({"subnets": [], **keys})
    address = "127.0.0.1", config.listenPort
    try:
        listening = socket.create_server(address)
    except OSError as error:
        raise Failure(
            f"cannot listen on {address[0]}:{address[1]}: {os.strerror(error.errno or 0)}",
            advice=f"another agent may run; listenPort in {path} chooses another port",
        ) from None
    asyncio.run(run(options, keys, Path(config.confDir), listening, unknown))
