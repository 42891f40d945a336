"""The command line. It only composes: each command lives in a command module of platform, tune or serve."""

import importlib
import pkgutil
from collections.abc import Iterator

import click

from .commands.console import run_command
from .ray_runtime import choose_authentication

_ROOT = __name__.removesuffix(".platform.cli")
_HOMES = (f"{_ROOT}.platform.commands", f"{_ROOT}.tune.commands", f"{_ROOT}.serve.commands")


class _Group(click.Group):
    """Imports command modules, which list their commands as `COMMANDS`, until the one asked for is found."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(str(command.name) for command in _commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for command in _commands():
            self.add_command(command)  # click suggests what it knows for a misspelt name
            if command.name == cmd_name:
                return command
        return None


def _commands() -> Iterator[click.Command]:
    for home in _HOMES:
        module = importlib.import_module(home)
        yield from getattr(module, "COMMANDS", ())
        for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
            yield from getattr(importlib.import_module(f"{home}.{part.name}"), "COMMANDS", ())


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from .provenance import code_version

        click.echo(f"neural-hamilton {code_version()}")
        ctx.exit()


@click.group(cls=_Group, invoke_without_command=True, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version and exit.")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Neural operators for Hamiltonian mechanics: generate data, train, sweep, evaluate and serve."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `neural-hamilton`; returns the exit code."""
    choose_authentication()
    return run_command(cli, arguments)
