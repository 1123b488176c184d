"""What the site needs beside the files of ``docs``: the project's own pages, and links to them."""

from __future__ import annotations

import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Files outside of docs that the site has as well, by their path in the repository.
_OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "configs/site-ingest.toml")
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the project's files."""
    root = posixpath.dirname(config.config_file_path)
    for name in _OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=posixpath.join(root, name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they hold between files of the repository, made to hold between pages of the site."""
    uri = page.file.src_uri
    at = posixpath.dirname(uri if uri in _OUTSIDE else f"docs/{uri}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(at, link[2]))
        if target == "README.md":
            target = "docs/index.md"
        if target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif target not in _OUTSIDE:
            return link[0]
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(uri) or '.')}{link[3]}"

    return _LINK.sub(moved, markdown)
