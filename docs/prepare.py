"""`python docs/prepare.py`: lay out what the site is built from in build/docs.

`pages` is docs/ with the pages and downloads that lie outside it, and links that fit their places. `package` is the code under the
names that it is installed with, for the API reference: the folders of a checkout have other names.
"""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "docs"
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
DOWNLOADS = ("examples/quickstart.ipynb", "examples/two_oscillators.py")
PACKAGES = ("physics", "architectures", "platform", "tune", "serve")


def main() -> None:
    shutil.rmtree(BUILD, ignore_errors=True)
    pages, package = BUILD / "pages", BUILD / "package" / "neural_hamilton"
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for page in pages.rglob("*.md"):
        page.write_text(inside(page.read_text(), len(page.relative_to(pages).parts) - 1))
    for source, target in PAGES.items():
        (pages / target).write_text((ROOT / source).read_text().replace("](docs/", "]("))
    for name in DOWNLOADS:
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, pages / name)
    package.mkdir(parents=True)
    (package / "__init__.py").symlink_to(ROOT / "neural_hamilton.py")
    for name in PACKAGES:
        (package / name).symlink_to(ROOT / name, target_is_directory=True)


def inside(text: str, depth: int) -> str:
    """Links of a page at `depth` folders below docs/ that leave docs/, to where their targets are in the site."""
    up = "../" * depth
    for source, target in PAGES.items():
        text = text.replace(f"]({up}../{source}", f"]({up}{target}")
    return re.sub(rf"\]\({re.escape(up)}\.\./(examples/)", rf"]({up}\1", text)


if __name__ == "__main__":
    main()
