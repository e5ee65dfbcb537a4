"""`cnm schema`: JSON Schema of configurations."""

import json

import click

from cnm_core.schema import json_schema
from cnm_core.schema.plugins import ALIASES, PLUGINS


@click.command()
@click.argument("plugin", required=False, type=click.Choice([*PLUGINS, *ALIASES]))
def schema(plugin: str | None) -> None:
    """Print the JSON Schema of PLUGIN's configuration, or of a whole conflist.

    An editor that knows JSON Schema completes and checks a .conflist by it.
    """
    document = json_schema.of_conflist() if plugin is None else json_schema.of_plugin(plugin)
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
