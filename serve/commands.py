"""The command `serve`, and the commands of this package. Ray and torch are imported when it runs."""

import contextlib
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import click
import psutil

from ..physics import InputError
from ..platform.cluster.joining import cluster_address
from ..platform.commands.console import config_options, emit, json_option, resolve_config
from ..platform.storage import Location
from .address import check_address
from .environment import prepare_ray_serve
from .predict_command import predict_command
from .shipped import find_folder, name_of, shipped_models, shipped_models_in_order, short_path


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

    Ctrl-C or SIGTERM ends it, after the requests that it works on. MODEL is a model folder, its URL or the name of a shipped model;
    requests choose one by NAME, by default the name of its folder or run, and the first is the default. Without any, all shipped models are
    served, first the one that `predict` uses when no initial state is given.
    """
    settings = resolve_config(config_source, assignments, serving__host=host, serving__port=port).serving
    if cluster_address() is None:  # else that of an endpoint that is there may be shared
        check_address(settings.host, settings.port)
    given = _read_models(models)
    from ..platform.ray_runtime import connect
    from .service import read_api_key

    if settings.api_key_file is not None:
        read_api_key(settings.api_key_file)
    num_models = len(given or shipped_models())
    click.echo(f"loading {num_models} model{'s' * (num_models > 1)}; the first time, solvers are compiled for half a minute", err=True)
    prepare_ray_serve(
        max_requests=settings.max_queued_requests * (settings.max_replicas or settings.num_replicas),
        max_body_mb=settings.max_body_mb,
        request_timeout_seconds=settings.request_timeout_seconds,
        cors_origins=settings.cors_origins,
    )
    with _Signals() as signals:
        loading = ThreadPoolExecutor(1).submit(_load_models, given)  # while Ray starts, which is mostly waiting
        connect()
        folders = loading.result()
        signals.listen()  # Ray has a handler of its own for SIGTERM
        from . import application

        url = application.start(folders, **settings.model_dump())
        listed = ", ".join(folders) if models else f"all {len(folders)} shipped models"
        shown = {"url": url, "models": {name: str(short_path(folder)) for name, folder in folders.items()}}
        emit(shown, as_json, f"serving {listed} at {url} (Ctrl-C stops it)")
        started = psutil.Process().children(recursive=True)
        signals.wait()
        is_private = cluster_address() is None
        ended = application.stop(route=settings.route, leave_serve=is_private)
        # A private Ray ends with this process: taken down piece by piece it takes seconds more. And a signal to the whole process group or
        # container has ended Ray already, whose clean-up as this process exits would hang.
        if is_private or not ended:
            _end_at_once(started, 0)
    click.echo("stopped", err=True)


def _read_models(models: tuple[str, ...]) -> dict[str, Location]:
    """Folders by name, not opened yet."""
    folders: dict[str, Location] = {}
    for given in models:
        name, equals, model = given.partition("=")
        if not equals or "/" in name:  # of a URL's options, or of a folder such as runs/width=8
            name, model = "", given
        folder = find_folder(model)
        name = name or name_of(folder)
        if name in folders:
            raise InputError(f"two models are called {name!r}; give them names, such as {name}-2={model}")
        folders[name] = folder
    return folders


def _load_models(given: dict[str, Location]) -> dict[str, Location]:
    """The models to serve, all shipped ones where none is given.

    Each is loaded once, so that a damaged one is reported here and not in the log of a replica, and what requests will need is compiled.
    """
    from ..architectures import load_model, read_card
    from .model import Model

    folders = given or {name: find_folder(name) for name in shipped_models_in_order()}
    by_system: dict[str, Location] = {}
    for folder in folders.values():
        load_model(folder)
        by_system[read_card(folder)["trained_for"]["system"]] = folder
    for folder in by_system.values():
        Model(folder).prepare_references()
    from . import application  # noqa: F401  # imported while there is time

    return folders


class _Stopped(BaseException):
    """A signal before the endpoint was ready. No `Exception`: nobody may handle it on the way."""


class _Signals:
    """Ctrl-C and SIGTERM: `wait` returns when there is one. Before that, they end what is being started, and this process."""

    def __enter__(self) -> "_Signals":
        self._is_waiting = False
        # Of two signals at once the kernel may give both to threads of a library, which wakes no lock that the main thread waits for.
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._fd_before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self.listen()
        return self

    def listen(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._receive)

    def wait(self) -> None:
        self._is_waiting = True
        while self._woken.recv(1)[0] not in _SIGNALS:  # others, of a library with a handler, wake it too
            pass

    def _receive(self, number: int, _: Any) -> None:
        if not self._is_waiting:
            self._is_waiting = True  # one is enough
            raise _Stopped(number)

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._woken.close()
        self._waker.close()
        # SystemExit is Ray's own handler, while it starts.
        if isinstance(error, (_Stopped, SystemExit)) and error.args and isinstance(error.args[0], int):
            _end_at_once([], 128 + error.args[0])


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _end_at_once(started: list[psutil.Process], code: int) -> NoReturn:
    """Exit, and leave nothing behind: of a private cluster, all processes are descendants of this one."""
    processes = [*started, *psutil.Process().children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=1.5)
    click.echo("stopped", err=True)
    sys.stdout.flush()
    os._exit(code)


COMMANDS = (serve_command, predict_command)
