"""The documentation is true: commands and keys exist, snippets run, links lead somewhere, generated tables are current."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + list((ROOT / "docs").rglob("*.md")))
PROGRAM = re.compile(r"(?:^|[\s`])(?:neural-hamilton|python -m neural_hamilton\.platform)[ \t]+([^`\n]*)")
TARGETS = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# A path into someone's machine; the tail of a relative path or of a URL is none.
ABSOLUTE = re.compile(r"(?<![\w.~:/*$}])/(?:home|root|tmp|work|mnt|usr|opt|var|etc|Users|data)/")
BLOCKS = re.compile(r"(<!-- [^\n]* -->\n)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
GENERATED = re.compile(r"<!-- begin ([\w-]+) -->\n.*?<!-- end \1 -->", re.DOTALL)
RECIPE = re.compile(r"<!-- recipe: (\w+) (\S+) -->")
UNWANTED = re.compile(
    r"\b(told|tells?|says?|said|knows|answers?|answered|answering|ours?|share of|so many|in vain|rooms?|chained windows|maps)\b",
    re.IGNORECASE,
)


def label(path):
    return str(path.relative_to(ROOT))


def blocks(document, language):
    """(comment before it, text) of each fenced block in `language`."""
    return [(comment.strip(), text) for comment, kind, text in BLOCKS.findall(document.read_text()) if kind == language]


def command_lines(document):
    """Everything after the program's name, wherever it is shown: code blocks (continuations joined) and inline code."""
    text = GENERATED.sub("", document.read_text()).replace("\\\n", " ")
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
    """Follow `words` down click's tree without running anything, and read the configuration they give; returns the command's name."""
    from neural_hamilton.platform.cli import cli

    command, context = cli, cli.make_context("neural-hamilton", [], resilient_parsing=True)
    while isinstance(command, click.Group) and words[:1] != ["--version"]:
        assert words, f"no command after {command.name}"
        name, words = words[0], words[1:]
        found = command.get_command(context, name)
        assert found is not None, f"{name} is not a command of {command.name}"
        command, context = found, click.Context(found, info_name=name, parent=context)
    if "--help" in words or words in (["..."], ["--version"]):
        return command.name
    context.resilient_parsing = True  # no prompts, no missing-argument errors for a fragment, no callbacks
    given, rest, _ = command.make_parser(context).parse_args(args=list(words))
    assert not rest, f"{command.name} does not take {rest}"
    for parameter in command.params:  # values too: choices, numbers and ranges
        if isinstance(parameter, click.Option) and not parameter.is_flag and not parameter.multiple:
            for value in [words[i + 1] for i, word in enumerate(words[:-1]) if word in parameter.opts]:
                parameter.type.convert(value, parameter, context)
    if "config_source" in {parameter.name for parameter in command.params}:
        check_configuration(given)
    return command.name


def check_configuration(given):
    """The shipped configuration exists, and so does every key; a file that the reader writes is taken as empty."""
    from neural_hamilton.platform.config import load_config, parse_assignments

    source, flags = given.get("config_source"), {key.replace("__", "."): value for key, value in given.items() if "__" in key}
    if "architectures" in given and "," not in given["architectures"]:
        flags["architecture.name"] = given["architectures"]
    overrides = parse_assignments(given.get("assignments") or []) | parse_assignments([f"{key}={value}" for key, value in flags.items()])
    load_config(None if source is None or source.endswith(".yaml") else source, overrides)


# CONTRIBUTING's commands need its recipes: tests/test_project_recipes.py runs them.
SHOWN = [
    pytest.param(line, id=f"{document.stem}: {line[:60]}")
    for document in DOCUMENTS
    if document.name != "CONTRIBUTING.md"
    for line in command_lines(document)
    if not line.startswith("COMMAND")
]


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_that_is_shown_exists_with_every_option_and_key(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of shipped configurations must not depend on the working folder
    check(shlex.split(line))


def test_the_readme_shows_every_command():
    from neural_hamilton.platform.cli import cli

    shown = {shlex.split(line)[0] for line in command_lines(ROOT / "README.md")}
    assert shown >= set(cli.list_commands(click.Context(cli)))


@pytest.mark.parametrize(
    "wrong",
    [
        "forge data",
        "generate data --trains 5",
        "plan bake",
        "train data --workers many",
        "predict model extra --potential q",
        "train data --out run --set training.epoch=5",
        "train data --out run --config nothing",
        "train data --out run --arch perceptron",
    ],
)
def test_a_wrong_command_would_be_noticed(wrong):
    from neural_hamilton.physics import InputError

    with pytest.raises((AssertionError, click.UsageError, InputError)):
        check(shlex.split(wrong))


@pytest.fixture(scope="module")
def workshop(tiny_dataset, tmp_path_factory):
    """A folder with the datasets that the pages speak of, and an environment with the program on its path."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "runs").mkdir()
    for name in ("data", "data-from-elsewhere"):
        (folder / "runs" / name).symlink_to(tiny_dataset, target_is_directory=True)
    program = folder / "bin" / "neural-hamilton"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m neural_hamilton.platform "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    return folder, os.environ | {"PATH": path, "HF_HOME": str(folder / "huggingface"), "HF_HUB_OFFLINE": "1"}


def run(command, workshop):
    folder, environment = workshop
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def python_of(document):
    """The page's Python, block after block; a comment before a block states why it does not run here."""
    return "\n".join(text for comment, text in blocks(document, "python") if not comment)


PAGES_WITH_PYTHON = [document for document in DOCUMENTS if python_of(document) and document.name != "tutorial.md"]


@pytest.mark.parametrize("document", PAGES_WITH_PYTHON, ids=label)
def test_the_python_of_a_page_runs(document, workshop):
    run([sys.executable, "-c", python_of(document)], workshop)


@pytest.mark.slow
def test_the_tutorial_runs_from_the_first_command_to_the_last(workshop):
    tutorial = ROOT / "docs" / "tutorial.md"
    setup, *commands = [text for _, text in blocks(tutorial, "bash")]
    assert setup.startswith("make setup")
    run(["bash", "-ec", "\n".join(commands)], workshop)
    assert (workshop[0] / "harmonic.png").exists()
    assert (workshop[0] / "runs" / "tutorial-report" / "report.html").exists()
    code = python_of(tutorial)
    error = float(run([sys.executable, "-c", code], workshop).split()[0])
    assert error < 1e-3, code


def test_contributing_has_a_recipe_for_each_extension():
    recipes = [(RECIPE.match(comment), text) for comment, text in blocks(ROOT / "CONTRIBUTING.md", "python")]
    assert [match[1] for match, _ in recipes if match] == ["system", "ensemble", "architecture", "study", "baseline"]
    for match, text in recipes:
        assert not match or ast.get_docstring(ast.parse(text))


def test_generated_tables_are_current():
    specification = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generate)
    assert generate.main(["--check"]) == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_links_and_images_lead_somewhere(document):
    for target in TARGETS.findall(prose(document.read_text())):
        if not re.match(r"[a-z]+://|mailto:", target):
            path, _, anchor = target.partition("#")
            file = document.parent / path if path else document
            assert file.exists(), f"{document.name} links to {target}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, target


def prose(text):
    """Text without code blocks."""
    return BLOCKS.sub("", text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_words_to_avoid(document):
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", prose(document.read_text()))
    found = [line for line in text.splitlines() if UNWANTED.search(line)]
    assert not found, found


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_no_document_points_into_one_machine(document):
    assert not ABSOLUTE.findall(document.read_text())


def test_a_path_into_one_machine_would_be_noticed():
    assert ABSOLUTE.findall('open("/home/me/x") or /tmp/y') == ["/home/", "/tmp/"]
    assert not ABSOLUTE.findall("runs/data/train ~/data/x http://127.0.0.1:8000/data/x")


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_code_blocks_are_closed(document):
    assert len(re.findall(r"^ *```", document.read_text(), re.MULTILINE)) % 2 == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_make_targets_that_are_shown_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
    assert shown <= targets


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f" {page.relative_to(ROOT / 'docs')}\n" in navigation, page
