"""`cnm completion`: what a shell needs to complete words of our command line."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what has SHELL complete the words of cnm.

    \b
    bash: source <(cnm completion bash)
    zsh:  source <(cnm completion zsh)
    fish: cnm completion fish | source
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "cnm", "_CNM_COMPLETE").source())
