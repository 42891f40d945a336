"""The command `serve`, and the commands of this package. Ray and torch are imported when it runs."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ..platform.commands.console import config_options, emit, json_option, resolve_config
from .predict_command import predict_command
from .shipped import choose_model, find_model, short_path


@click.command("serve", context_settings={"show_default": True})
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--host", help="Address to listen on; 0.0.0.0 opens it to the network, without any login.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: 8000]")
@config_options
@json_option
def serve_command(
    model: Path | None, host: str | None, port: int | None, config_source: str | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """Serve MODEL over HTTP with Ray Serve.

    Ctrl-C or SIGTERM ends it. MODEL is a model folder or the name of a shipped model. By default it is the shipped model that
    `predict` uses when no initial state is given.
    """
    settings = resolve_config(config_source, assignments, serving__host=host, serving__port=port).serving
    folder = choose_model() if model is None else find_model(model)
    from ..architectures import load_model

    load_model(folder)  # report a damaged model here, not in the log of a replica
    from ..platform.ray_runtime import connect

    with _until_signal() as wait:
        connect()
        from . import application

        url = application.start(folder, **settings.model_dump())
        try:
            emit({"url": url, "model": str(folder)}, as_json, f"serving {short_path(folder)} at {url} (Ctrl-C stops it)")
            wait()
        finally:
            application.stop()
    click.echo("stopped", err=True)


@contextlib.contextmanager
def _until_signal() -> Iterator[Callable[[], Any]]:
    """A function that waits for Ctrl-C or SIGTERM. A signal before it waits interrupts what is being started."""
    stopped, waiting = threading.Event(), threading.Event()

    def receive(*_: Any) -> None:
        stopped.set()
        if not waiting.is_set():
            raise KeyboardInterrupt

    def wait() -> None:
        # Ray installs a SIGTERM handler of its own when it starts, so these are put in place again.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, receive)
        waiting.set()
        stopped.wait()

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


COMMANDS = (serve_command, predict_command)
