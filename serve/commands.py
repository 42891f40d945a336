"""The command `serve`, and the commands of this package. Ray and torch are imported when it runs."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psutil

from ..physics import InputError
from ..platform.commands.console import config_options, emit, json_option, resolve_config
from .environment import prepare_ray_serve
from .predict_command import predict_command
from .shipped import choose_model, find_model, name_of, shipped_models, short_path

_RAY_CORE = ("raylet", "gcs_server")  # a private cluster is lost with either
_STOP_SECONDS = 9.0  # systemd and Kubernetes allow more; who presses Ctrl-C expects less


@click.command("serve", context_settings={"show_default": True})
@click.argument("models", nargs=-1, metavar="[[NAME=]MODEL]...")
@click.option("--host", help="Address to listen on; 0.0.0.0 opens it to the network, so set serving.api_key_file.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: 8000]")
@config_options
@json_option
def serve_command(
    models: tuple[str, ...], host: str | None, port: int | None, config_source: str | None, assignments: tuple[str, ...], as_json: bool
) -> None:
    """Serve models over HTTP with Ray Serve.

    Ctrl-C or SIGTERM ends it, after the requests that it works on. MODEL is a model folder or the name of a shipped model; requests
    choose one by NAME, by default the name of its folder or run, and the first is the default. Without any, all shipped models are served,
    first the one that `predict` uses when no initial state is given.
    """
    settings = resolve_config(config_source, assignments, serving__host=host, serving__port=port).serving
    folders = _read_models(models)
    from ..architectures import load_model

    for folder in folders.values():
        load_model(folder)  # report a damaged model here, not in the log of a replica
    from ..platform.ray_runtime import connect

    prepare_ray_serve()
    with _until_signal() as wait:
        connect()
        from . import application

        url = application.start(folders, **settings.model_dump())
        listed = ", ".join(folders) if models else f"all {len(folders)} shipped models"
        shown = {"url": url, "models": {name: str(short_path(folder)) for name, folder in folders.items()}}
        emit(shown, as_json, f"serving {listed} at {url} (Ctrl-C stops it)")
        started = psutil.Process().children(recursive=True)
        wait()
        _stop(application.stop, started)
    click.echo("stopped", err=True)


def _read_models(models: tuple[str, ...]) -> dict[str, Path]:
    """Folders by name."""
    if not models:
        default = choose_model().name
        return {name: find_model(name) for name in sorted(shipped_models(), key=lambda name: (name != default, name))}
    folders: dict[str, Path] = {}
    for given in models:
        name, _, model = given.rpartition("=")
        folder = find_model(model)
        name = name or name_of(folder)
        if name in folders:
            raise InputError(f"two models are called {name!r}; give them names, such as {name}-2={model}")
        folders[name] = folder
    return folders


@contextlib.contextmanager
def _until_signal() -> Iterator[Callable[[], Any]]:
    """A function that waits for Ctrl-C or SIGTERM. A signal before it waits ends this process, and what it started, at once."""
    stopped, waiting = threading.Event(), threading.Event()
    is_private = not os.environ.get("RAY_ADDRESS")

    def receive(number: int, _: Any) -> None:
        stopped.set()
        if waiting.is_set():
            return
        if not is_private:
            raise KeyboardInterrupt  # a cluster of others keeps what was begun, unless it is ended properly
        # Nothing is served yet, and Ray cannot be interrupted as it starts.
        _end(psutil.Process().children(recursive=True))
        print("stopped before it was ready", file=sys.stderr, flush=True)
        os._exit(128 + number)

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


def _stop(stop: Callable[[], None], started: list[psutil.Process]) -> None:
    """End the endpoint, in time.

    A signal to the whole process group or container ends Ray's processes as well; without them `stop` would wait for a minute.
    """
    started = [*started, *psutil.Process().children(recursive=True)]
    core = [process for process in started if _name(process) in _RAY_CORE]
    stopping = threading.Thread(target=stop, daemon=True)
    stopping.start()
    deadline = time.monotonic() + _STOP_SECONDS
    while stopping.is_alive() and time.monotonic() < deadline and all(map(_runs, core)):
        stopping.join(0.1)
    if stopping.is_alive():
        # Ray's own clean-up as this process exits would wait as well.
        _end(started)
        click.echo("stopped", err=True)
        sys.stdout.flush()
        os._exit(0)


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=2.0)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


COMMANDS = (serve_command, predict_command)
