"""What the documents say exists: commands with their options, links, images; and nothing points into one machine."""

import re
import shlex
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + list((ROOT / "docs").glob("*.md")))
PROGRAM = re.compile(r"(?:^|[\s`])(?:neural-hamilton|python -m neural_hamilton\.platform)[ \t]+([^`\n]*)")
TARGETS = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# A path into someone's machine; the tail of a relative path or of a URL is none.
ABSOLUTE = re.compile(r"(?<![\w.~:/*$}])/(?:home|root|tmp|work|mnt|usr|opt|var|etc|Users|data)/")


def command_lines(document):
    """Everything after the program's name, wherever it is shown: code blocks (continuations joined) and inline code."""
    text = document.read_text().replace("\\\n", " ")
    in_block = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            in_block = not in_block
        elif in_block:
            if match := PROGRAM.search(line):
                yield match[1].split(" # ")[0].split(" | ")[0].strip()
        else:
            for code in re.findall(r"`([^`]+)`", line):
                if match := PROGRAM.match(code):
                    yield match[1].strip()


def check(words):
    """Follow `words` down click's tree without running anything; returns the command's name."""
    from neural_hamilton.platform.cli import cli

    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        assert words, f"no command after {command.name}"
        name, words = words[0], words[1:]
        found = command.get_command(context, name)
        assert found is not None, f"{name} is not a command of {command.name}"
        command, context = found, click.Context(found, info_name=name, parent=context)
    if words == ["..."] or "--help" in words:
        return command.name
    context.resilient_parsing = True  # no prompts, no missing-argument errors for a fragment, no callbacks
    _, rest, _ = command.make_parser(context).parse_args(args=list(words))
    assert not rest, f"{command.name} does not take {rest}"
    for parameter in command.params:  # values too: choices, numbers and ranges
        if isinstance(parameter, click.Option) and not parameter.is_flag and not parameter.multiple:
            given = [words[i + 1] for i, word in enumerate(words[:-1]) if word in parameter.opts]
            for value in given:
                parameter.type.convert(value, parameter, context)
    return command.name


SHOWN = [pytest.param(line, id=f"{document.name}: {line[:60]}") for document in DOCUMENTS for line in command_lines(document)]


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_that_is_shown_exists_with_every_option(line):
    check(shlex.split(line))


def test_the_readme_shows_every_command():
    from neural_hamilton.platform.cli import cli

    shown = {shlex.split(line)[0] for line in command_lines(ROOT / "README.md")}
    assert shown >= set(cli.list_commands(click.Context(cli)))


@pytest.mark.parametrize(
    "wrong", ["forge data", "generate data --trains 5", "plan bake", "train data --workers many", "predict model extra --potential q"]
)
def test_a_wrong_command_would_be_noticed(wrong):
    with pytest.raises((AssertionError, click.UsageError)):
        check(shlex.split(wrong))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_images_lead_somewhere(document):
    for target in TARGETS.findall(document.read_text()):
        if not re.match(r"[a-z]+://|mailto:", target):
            path, _, anchor = target.partition("#")
            file = document.parent / path if path else document
            assert file.exists(), f"{document.name} links to {target}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_points_into_one_machine(document):
    assert not ABSOLUTE.findall(document.read_text())


def test_a_path_into_one_machine_would_be_noticed():
    assert ABSOLUTE.findall('open("/home/me/x") or /tmp/y') == ["/home/", "/tmp/"]
    assert not ABSOLUTE.findall("runs/data/train ~/data/x http://127.0.0.1:8000/data/x")


def test_code_blocks_are_closed():
    for document in DOCUMENTS:
        assert len(re.findall(r"^ *```", document.read_text(), re.MULTILINE)) % 2 == 0, document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_that_are_shown_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
    assert shown <= targets
