"""Hooks of MkDocs: links that leave `docs`, pages from files of the root and from notebooks, and formulas.

The pages are read on the site and where the repository is shown. So a link to a file outside `docs` stays what it is
in the text, and here leads to a page with a copy of that file: no link of the site is dead, and none needs a network.
Formulas become MathML, which browsers draw without a script. Drawings become part of the page, for its colours.
"""

import html
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from research.docs_site import notebook_pages

logger = logging.getLogger("mkdocs.hooks.contextcir")  # its warnings end a strict build

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}  # file outside `docs` -> page
PAGES |= {f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in NOTEBOOKS}
FILES = {page: file for file, page in PAGES.items()}
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
DRAWING = re.compile(r'<img alt="[^"]*" src="[./]*figures/(how_\w+\.svg)"\s*/?>')
FETCHED = re.compile(
    r'<(?:script|img|iframe)\b[^>]*\bsrc="(https?:[^"]*)"|<link rel="stylesheet" href="(https?:[^"]*)"'
)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".md": "markdown", ".toml": "toml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are files outside `docs`, and copies of the files that pages link to."""
    for name, page in PAGES.items():
        if (ROOT / name) not in NOTEBOOKS:
            files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for path in NOTEBOOKS:
        text, pictures = notebook_pages.page(path)
        files.append(File.generated(config, PAGES[f"notebooks/{path.name}"], content=text))
        for name, content in ({path.name: path.read_bytes()} | pictures).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    copied = set()
    for file in list(files.documentation_pages()):
        for target, _ in LINK.findall(file.content_string):
            path = in_repository(file.src_uri, target)
            if is_copied(path):
                copied.add(path)
    for path in sorted(copied):
        files.append(File.generated(config, copy_of(path), content=show(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links to files outside `docs` lead to their pages here."""
    here = page.file.src_uri

    def place(match: re.Match[str]) -> str:
        path, anchor = in_repository(here, match[1]), match[2] or ""
        target = copy_of(path) if is_copied(path) else PAGES.get(path, path.removeprefix("docs/"))
        return posixpath.relpath(target, posixpath.dirname(here) or ".") + anchor

    return markdown if here.startswith("source/") else LINK.sub(place, markdown)


def on_page_content(html_text: str, page: Page, **_: Any) -> str:
    """Turn formulas into MathML, and put drawings into the page."""

    def formula(match: re.Match[str]) -> str:
        text = html.unescape(match[2]).strip()
        try:
            return convert(text, display="block" if match[1] == "div" else "inline")
        except Exception as error:  # whatever the converter meets: the page and the formula have to be named
            logger.warning("%s: The formula %r cannot be read: %s", page.file.src_uri, text, error)
            return match[0]

    html_text = DRAWING.sub(lambda match: drawing(match[1]), html_text)
    return FORMULA.sub(formula, html_text)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Warn of a page that fetches something from elsewhere: the site works without a network."""
    for url in FETCHED.finditer(output):
        logger.warning("%s fetches %s.", page.file.src_uri, url[1] or url[2])
    return output


def drawing(name: str) -> str:
    """A drawing, wide enough to read it: on a phone it is scrolled."""
    return f'<span class="drawing-box">{(ROOT / "docs" / "figures" / name).read_text(encoding="utf-8")}</span>'


def in_repository(page: str, target: str) -> str:
    """The path in the repository that a link on a page of the site means."""
    here = FILES.get(page) or posixpath.join("docs", page)
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), target))


def is_copied(path: str) -> bool:
    """Whether a path is a file or folder of the repository that the site has no page for."""
    return not path.startswith("docs/") and path not in PAGES and (ROOT / path).exists()


def copy_of(path: str) -> str:
    """The page of the site that shows a file."""
    return f"source/{path}.md"


def show(path: str) -> str:
    """A page with the text of a file, or the names in a folder."""
    found = ROOT / path
    if found.is_dir():
        text = "\n".join(sorted(entry.name for entry in found.iterdir() if not entry.name.startswith((".", "__"))))
    else:
        text = found.read_text(encoding="utf-8")
    fence, language = "`" * 8, LANGUAGES.get(found.suffix, "text")
    front = "---\nsearch: {exclude: true}\nhide: [navigation, toc]\n---\n"
    return f"{front}# `{path}`\n\n{fence}{language}\n{text}\n{fence}\n"
