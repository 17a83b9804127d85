"""Options that every command has, lazy loading of commands, and how errors leave the program."""

from __future__ import annotations

import functools
import importlib
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import click

from eco_ray.config import Settings, load_settings
from eco_ray.errors import EcoRayError

F = TypeVar("F", bound=Callable[..., Any])


class LazyGroup(click.Group):
    """A group whose commands are imported only when one is used, so that each command starts fast."""

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: command name -> "module:attribute"
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the table."""
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


def common_options(function: F) -> F:
    """Add -o, --address and --state-dir, and pass `settings` in their place."""

    @click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), help="How to print [table].")
    @click.option("--address", help="Ray cluster: auto or HOST:PORT; default: the one that `eco-ray up` started.")
    @click.option("--state-dir", type=click.Path(), help="Where the cluster keeps its database, logs and tokens.")
    @functools.wraps(function)
    def wrapper(*args: Any, output: str | None, address: str | None, state_dir: str | None, **kwargs: Any) -> Any:
        given = click.get_current_context().find_root().obj or {}
        flags = {"output": output, "address": address, "state_dir": state_dir}
        flags = {key: value if value is not None else given.get(key) for key, value in flags.items()}
        settings: Settings = load_settings({key: value for key, value in flags.items() if value is not None})
        return function(*args, settings=settings, **kwargs)

    return wrapper  # type: ignore[return-value]  # the options take the place of `settings`


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(group: click.Group) -> None:
    """Run a command line: errors of ours end with their own exit code and one message on stderr."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that what was begun is cleaned up
    try:
        group.main(standalone_mode=False)
    except EcoRayError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted; jobs that were submitted go on.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has what they wanted
