"""Docstrings of this library for mkdocstrings: references become links, and types are read as Griffe reads them.

The docstrings are in Hugging Face's style. This extension of Griffe turns [`Name`] and [`~package.module.Name`] into
links to what is on the site, and into code where it is not. A name that does not exist is a warning, which ends a
strict build. Types in back-ticks lose them in the heads of `Args`, `Returns` and `Raises`; shapes stay, in the text.
"""

import logging
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import griffe

logger = logging.getLogger("mkdocs.plugins.contextcir")  # its warnings end a strict build

REFERENCE = re.compile(r"\[`(~?)([A-Za-z_][\w.]*)(?:\(\))?`\](?![\[(])")
OURS = ("contextcir", "modeling_contextcir")
SECTION = re.compile(r"^( *)(Args|Attributes|Returns|Yields|Raises):\s*$")
TYPE = r"(?:\[`~?[\w.]+`\]|`[^`]+`)"
ARGUMENT = re.compile(r"^([\w*, ]+?) \((.*?)\):(.*)$")
KINDS = re.compile(rf"^{TYPE}(?: or {TYPE})*")
OPTIONAL = re.compile(r", \*optional\*|,? defaults? to (?:`[^`]*`|[^,]+)")
HEAD = re.compile(rf"^({TYPE}(?: or {TYPE})*)( of shape `[^`]*`)?(:.*|\.)?$")


class HubDocstrings(griffe.Extension):
    """Prepare all docstrings of a package when it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        if pkg.name not in OURS:
            return
        members = list(walk(pkg))
        places: dict[str, set[str]] = {}
        for member in members:
            parts = member.path.split(".")
            for start in range(1, len(parts)):
                places.setdefault(".".join(parts[start:]), set()).add(member.path)
        for member in members:
            if member.docstring is not None:
                replace = partial(link, member=member, places=places, pkg=pkg)
                member.docstring.value = REFERENCE.sub(replace, heads(member.docstring.value))


def walk(parent: griffe.Object) -> Iterator[griffe.Object]:
    """An object and all that it defines itself, without what it imports."""
    yield parent
    for member in list(parent.members.values()):
        if not member.is_alias:
            yield from walk(member)


def link(match: re.Match[str], member: griffe.Object, places: dict[str, set[str]], pkg: griffe.Module) -> str:
    """The text of a reference, linked to its object if the site shows it."""
    name = match[2]
    shown = name.rpartition(".")[2] if match[1] else name
    path = resolve(name, member, places, pkg)
    if path is None:
        logger.warning("%s: [`%s`] is a reference to nothing.", member.path, match[1] + name)
        return f"`{shown}`"
    if path.partition(".")[0] not in OURS:
        return f"`{shown}`"
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'


def resolve(name: str, member: griffe.Object, places: dict[str, set[str]], pkg: griffe.Module) -> str | None:
    """The full path of a name: given in full, seen from the object, or the only one of that name in the package."""
    first, _, rest = name.partition(".")
    if rest and first not in places and first not in member.members:
        if first not in OURS:
            return name  # of another library, given in full
        if first != pkg.name:
            return name
    if first == pkg.name:
        return name if name == pkg.path or exists(pkg, rest) else None
    scope: Any = member
    while scope is not None:
        if first in scope.all_members if scope.is_class else first in scope.members:
            found = scope.all_members[first] if scope.is_class else scope.members[first]
            path = found.target_path if found.is_alias else found.path
            return f"{path}.{rest}" if rest else path
        scope = scope.parent
    candidates = sorted(places.get(name, ()))
    return candidates[0] if candidates else None


def exists(pkg: griffe.Module, rest: str) -> bool:
    """Whether a package has something at a path."""
    try:
        pkg[rest]
    except (KeyError, griffe.AliasResolutionError):
        return False
    return True


def heads(text: str) -> str:
    """Write the heads of the sections of a docstring without back-ticks, and shapes into their text."""
    lines, section, indent = text.expandtabs().splitlines(), "", 0
    for number, line in enumerate(lines):
        if found := SECTION.match(line):
            section, indent = found[2], len(found[1]) + 4
        elif section and line.strip() and len(line) - len(line.lstrip()) < indent:
            section = ""
        elif section and len(line) - len(line.lstrip()) == indent:
            lines[number] = " " * indent + head(section, line.strip())
    return "\n".join(lines)


def head(section: str, line: str) -> str:
    """One head: `name (type): text` of arguments, `type: text` of results and errors."""
    if section in ("Args", "Attributes"):
        found = ARGUMENT.match(line)
        kinds = found and KINDS.match(found[2])
        if not found or not kinds:
            return line
        more = sentence(OPTIONAL.sub("", found[2][kinds.end() :]))
        return f"{found[1]} ({plain(kinds[0])}{', optional' if '*optional*' in found[2] else ''}):{more}{found[3]}"
    found = HEAD.match(line)
    if not found:
        return line
    return f"{plain(found[1])}:{sentence(found[2] or '')}{(found[3] or ':')[1:]}"


def sentence(text: str) -> str:
    """What is said of a type beside its name, as a sentence of the text that follows."""
    text = text.strip(" ,")
    return f" {text[0].upper()}{text[1:]}." if text else ""


def plain(kind: str) -> str:
    """A type as an annotation: `str` or `Path` -> str | Path."""
    return " | ".join(
        re.sub(r"[\[\]`~]", "", one) if one.startswith("[") else one.strip("`") for one in re.split(r" or ", kind)
    )
