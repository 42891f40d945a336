"""The command `submit`: another command as a job on a cluster."""

import os
import shlex
from pathlib import Path
from typing import Any

import click

from ...physics import InputError
from .console import emit, json_option

_WRITTEN = ("dest", "run", "out")  # parameters of commands that name what they write


@click.command("submit", context_settings={"allow_interspersed_args": False, "show_default": True})
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option(
    "--address",
    metavar="URL",
    help="The dashboard.  [default: RAY_API_SERVER_ADDRESS, RAY_DASHBOARD_ADDRESS, or http://127.0.0.1:8265]",
)
@click.option(
    "--submission-id", metavar="ID", help="A name that stands for one job for good.  [default: one that follows from command and code]"
)
@click.option("--no-wait", is_flag=True, help="Return as soon as the job is submitted.")
@json_option
@click.pass_context
def submit(
    ctx: click.Context, words: tuple[str, ...], address: str | None, submission_id: str | None, no_wait: bool, as_json: bool
) -> None:
    """Run COMMAND as a job on a Ray cluster.

    COMMAND is a command of neural-hamilton with its arguments, or begins with python. The code of this checkout is uploaded, without what
    git ignores; the log is followed, and the exit code is 0 only if the job has succeeded. Repeated, the command follows the job that
    still runs; after it has ended, another begins. Ctrl-C leaves the job running.
    """
    command = shlex.join(_job_words(ctx, list(words)))
    from ..cluster.jobs import Jobs, dashboard_address

    jobs = Jobs(dashboard_address(address))
    code = _checkout()
    if code is None:
        click.echo("this installation is no checkout: the job runs the version that is installed on the cluster", err=True)
    job, attached = jobs.submit(command, code, submission_id)
    click.echo(f"job {job} {'is there already' if attached else 'begins'}: {command}", err=True)
    about: dict[str, Any] = {"submission_id": job, "address": jobs.address, "command": command, "attached": attached}
    if no_wait:
        emit(about | {key: value for key, value in jobs.state(job).items() if key != "ended"}, as_json, _remedies(jobs.address, job))
        return
    try:
        jobs.follow(job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        click.echo(f"\njob {job} goes on\n{_remedies(jobs.address, job)}", err=True)
        raise
    state = jobs.state(job)
    succeeded = state["status"] == "SUCCEEDED"
    emit(about | {"status": state["status"], "exit_code": state["exit_code"]}, as_json, f"job {job}: {state['status']}")
    if not succeeded:
        ctx.exit(state["exit_code"] or 1)


def _job_words(ctx: click.Context, words: list[str]) -> list[str]:
    """What the job runs; what is wrong with a command of this program is found out here, before anything is uploaded."""
    if words[0] == "python":
        return words
    words = words[1:] if words[0] == "neural-hamilton" else words
    root = ctx.find_root()
    group = root.command
    assert isinstance(group, click.Group)
    command = group.get_command(root, words[0]) if words and words[0] != "submit" else None
    if command is None:
        names = ", ".join(name for name in group.list_commands(root) if name != "submit")
        raise InputError(f"COMMAND is {shlex.join(words)!r}; it must begin with python or be one of {names}")
    given = command.make_context(words[0], words[1:], parent=root).params
    for name in _WRITTEN:
        path = str(given.get(name) or "")
        if path and "://" not in path and not os.path.isabs(path):
            raise InputError(
                f"{words[0]} would write to {path!r}, in the job's own copy of the code, which is deleted; give an absolute path "
                "on storage that all nodes share"
            )
    return ["python", "-m", "neural_hamilton.platform", *words]


def _checkout() -> Path | None:
    root = Path(__file__).resolve().parents[2]
    return root if all((root / name).exists() for name in ("neural_hamilton.py", "pyproject.toml")) else None


def _remedies(address: str, job: str) -> str:
    options = f"--address {shlex.quote(address)} {shlex.quote(job)}"
    return f"follow it: the same command, or ray job logs --follow {options}\nstop it: ray job stop {options}"


COMMANDS = (submit,)
