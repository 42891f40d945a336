"""MkDocs hooks: the pages at the top of the repository, and the package as `mkdocstrings` has to see it."""

import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
DOWNLOADS = ("examples/quickstart.ipynb",)
PACKAGES = ("physics", "architectures", "platform", "tune", "serve")


def on_config(config: Any) -> None:
    """Lay out build/docs/neural_hamilton as in a wheel: the folders of the checkout have other names than the packages."""
    package = ROOT / "build" / "docs" / "neural_hamilton"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    (package / "__init__.py").symlink_to(ROOT / "neural_hamilton.py")
    for name in PACKAGES:
        (package / name).symlink_to(ROOT / name, target_is_directory=True)


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside docs/, with links that fit its place in the site."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text().replace("](docs/", "](")))
    for name in DOWNLOADS:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A link that leaves docs/ in the repository leads to the page's place in the site."""
    up = "../" * page.file.src_uri.count("/")
    for source, target in PAGES.items():
        markdown = markdown.replace(f"]({up}../{source}", f"]({up}{target}")
    return re.sub(rf"\]\({re.escape(up)}\.\./(examples/)", rf"]({up}\1", markdown)
