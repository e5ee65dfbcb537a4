"""The `cnm` command: its groups, what it says when something is wrong, and its exit codes."""

import os
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from cnm_core import __version__
from cnm_core.errors import Error

# Exit codes, beside 0 for success and 2 for wrong usage (click's).
FAILED, NOT_FOUND, IN_THE_WAY, INVALID, INTERRUPTED = 1, 3, 4, 5, 130


class Failure(click.ClickException):
    """What went wrong and what to do about it, for one line on stderr.

    `code` is the exit code: FAILED, NOT_FOUND (no such network, endpoint or sandbox),
    IN_THE_WAY (something has the name, or still uses the network), INVALID (a document
    has problems).
    """

    def __init__(self, message: str, *, advice: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.advice = advice
        self.code = code


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called.

    `places` has "module:attribute" of each command. So `cnm network ls` does not wait for
    what `cnm network create` needs, and `--help` alone imports them all.
    """

    def __init__(self, *args: Any, places: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of `places`."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in self._places:
            return None
        module, _, attribute = self._places[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.command(
    cls=LazyGroup,
    places={
        "network": "cnm_core.cli.network:network",
        "endpoint": "cnm_core.cli.endpoint:endpoint",
        "ipam": "cnm_core.cli.ipam:ipam",
        "node": "cnm_core.cli.node:node",
        "agent": "cnm_core.cli.agent:agent",
        "schema": "cnm_core.cli.schema:schema",
        "doctor": "cnm_core.cli.doctor:doctor",
        "completion": "cnm_core.cli.completion:completion",
    },
)
@click.version_option(__version__, prog_name="cnm", message="%(prog)s %(version)s")
def cnm() -> None:
    """Container networks: made, listed, changed and removed, for any runtime that speaks CNI."""


def main() -> NoReturn:
    """Run the command line and exit with its code; errors are one line on stderr."""
    try:
        status = cnm.main(prog_name="cnm", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "cnm"
        _say(path, error.format_message(), f"see {path} --help")
        sys.exit(error.exit_code)
    except Failure as error:
        _say("cnm", error.message, error.advice)
        sys.exit(error.code)
    except click.ClickException as error:
        _say("cnm", error.format_message(), "")
        sys.exit(error.exit_code)
    except Error as error:
        _say("cnm", error.msg, error.details)
        sys.exit(FAILED)
    except RecursionError:
        _say("cnm", "a document has too many levels of nesting", "")
        sys.exit(FAILED)
    except BrokenPipeError:  # whoever reads has seen enough
        os._exit(FAILED)
    except OSError as error:
        _say("cnm", f"{error.filename or 'cannot write to stdout'}: {error.strerror}", "")
        os._exit(FAILED)  # what could not be written would be tried again
    except (click.Abort, KeyboardInterrupt):
        _say("cnm", "interrupted", "")
        sys.exit(INTERRUPTED)


def _say(who: str, what: str, advice: str) -> None:
    """One line on stderr: what is wrong, and what to do."""
    text = f"{what}; {advice}" if advice else what
    click.echo(f"{who}: " + " ".join(text.split()), err=True)


if __name__ == "__main__":
    main()
