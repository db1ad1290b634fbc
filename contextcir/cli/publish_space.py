"""Publish a Docker Space with the page of a gallery that is on the Hub.

    contextcir publish space hf://my-name/my-gallery my-name/my-page

The Space holds a Dockerfile and a card. It installs this version of contextcir with the extra `serve`, and runs
`contextcir serve` with the gallery, pinned to a commit. A private gallery or model needs a token that may read it, as
the secret `HF_TOKEN` in the settings of the Space.

The page is open to all who can open the Space: those who own it, or everybody with `--public`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser

PORT = 7860
SITE = "https://huggingface.co"  # shows the page in a frame


@dataclass
class SpaceArguments:
    """What to show, and where."""

    _argument_group_name = "Publishing"

    gallery: str = HfArg(help="Gallery on the Hub: hf://user/name, or hf://user/name@REVISION.")
    name: str = HfArg(help="Hub name of the Space, such as my-name/my-page.")
    model: str | None = HfArg(default=None, help="Hub name of the model; by default the one that the gallery names.")
    public: bool = HfArg(default=False, help="Publish the Space for everybody to see.")

    def __post_init__(self):
        if not self.gallery.startswith("hf://"):
            raise ValueError(
                f"Got {self.gallery}, expected hf://user/name. Publish the gallery first, with"
                f" `contextcir publish gallery {self.gallery} NAME`."
            )


def main(argv: Sequence[str]) -> str:
    """Publish the Space. Returns the commit."""
    parser = CommandParser([SpaceArguments], "contextcir publish space", __doc__, ("gallery", "name"))
    (args,) = parser.parse(argv)
    from contextcir import __version__
    from contextcir.data.hub import commit_of, publish_files

    repo, _, revision = args.gallery.removeprefix("hf://").partition("@")
    commit = commit_of(repo, "dataset", revision or None)
    with TemporaryDirectory() as folder:
        contents = write_space(Path(folder), args.name, repo, commit, model=args.model)
        published = publish_files(contents, args.name, kind="space", public=args.public)
    print(f"Published: {SITE}/spaces/{args.name}, commit {published}")
    print("If the gallery or its model is private, set the secret HF_TOKEN in the settings of the Space.")
    if "dev" in __version__:
        print(f"Its Dockerfile installs version {__version__}, which is in development.", file=sys.stderr)
    return published


def serve_command(gallery: str, revision: str, model: str | None = None) -> list[str]:
    """The command that the Space runs."""
    command = ["contextcir", "serve", f"hf://{gallery}@{revision}", *(["--model", model] if model else [])]
    command += ["--host", "0.0.0.0", "--port", str(PORT), "--public", "--anonymous", "--framed_by", SITE]
    return command


def write_space(folder: Path, name: str, gallery: str, revision: str, *, model: str | None = None) -> dict[str, Path]:
    """
    Write the files of a Space.

    Args:
        folder (`Path`): Where to.
        name (`str`): Hub name of the Space.
        gallery (`str`): Hub name of the gallery.
        revision (`str`): Its commit.
        model (`str`, *optional*): Hub name of the model; by default the one that the gallery names.

    Returns:
        `dict[str, Path]`: Name in the repository -> file.
    """
    import yaml
    from jinja2 import Template

    import contextcir

    title = name.split("/")[-1]
    header: dict[str, Any] = {"title": title, "emoji": "🔎", "colorFrom": "gray", "colorTo": "indigo", "sdk": "docker"}
    header |= {"app_port": PORT, "datasets": [gallery], "tags": ["composed-image-retrieval"]}
    header |= {"models": [model]} if model else {}
    values = {
        "header": yaml.safe_dump(header, allow_unicode=True, sort_keys=False).rstrip(),
        "title": title,
        "gallery": gallery,
        "revision": revision,
        "version": contextcir.__version__,
        "port": PORT,
        "command": serve_command(gallery, revision, model),
    }
    contents = {}
    for file in ("Dockerfile", "README.md"):
        template = Path(contextcir.__file__).parent / "serving" / "space" / file
        text = Template(template.read_text(encoding="utf-8"), keep_trailing_newline=True).render(values)
        contents[file] = folder / file
        contents[file].write_text(text, encoding="utf-8")
    return contents
