"""Blocks of code in the guides, and how they are run: commands in this process, Python as it stands.

A block is run unless the line before it says why not: `<!-- parsed only: WHY -->`. Then its commands are read by their
own parsers, so that each option exists and has a value that may be, and Python is compiled. `smaller` says what is
less in a test than in the page.
"""

import re
import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from starlette.testclient import TestClient

from contextcir.cli import options, serve
from contextcir.cli.main import main
from contextcir.scenes.oracle import Oracle
from contextcir.scenes.truth import Truth

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- parsed only: (?P<why>[^\n]+?) -->\n+ *)?"
    r"```(?P<language>python|bash)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
LAUNCHED = re.compile(r"\b(?:contextcir |-m contextcir\.cli\.|train\.py )(?P<rest>.*)$")
LESS = {"serve": ["--port=0"], "train": ["--max_steps=1", "--per_device_train_batch_size=4", "--use_cpu=true"]}
ADDRESS = "http://127.0.0.1:8000"  # of the oracle, in the pages


@dataclass(frozen=True)
class Block:
    """One block of a page, the section it stands in, and why it is not run, if it is not."""

    section: str
    language: str
    code: str
    why: str | None


class Parsed(BaseException):
    """A command has read its options; it goes no further. Not an `Exception`, which commands may catch."""


def blocks(page: str) -> list[Block]:
    """The blocks of a page of `docs`, in order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        sections = re.findall(r"^## (.*)$", text[: match.start()], flags=re.MULTILINE)
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        found.append(Block(sections[-1] if sections else "", match["language"], code, match["why"]))
    return found


def commands(code: str) -> list[str]:
    """The lines of a shell block, without comments."""
    lines = re.sub(r"\\\n", " ", code).splitlines()
    return [line for line in (re.sub(r"(^| +)#.*$", "", line).strip() for line in lines) if line]


def run(found: list[Block]) -> None:
    """Run blocks in order: commands one by one, Python in one namespace."""
    names: dict = {}
    with Shell() as shell:
        for block in found:
            if block.why is not None:
                parse(block)
            elif block.language == "python":
                exec(compile(block.code, block.section, "exec"), names)
            else:
                for line in commands(block.code):
                    shell.run(line)


class Shell(ExitStack):
    """Commands of a page, in this process. What an earlier one serves answers the later ones."""

    def __init__(self):
        super().__init__()
        self.oracle = ADDRESS
        self.client: TestClient | None = None  # of the page's server

    def run(self, line: str) -> None:
        """Run one command, of which this library needs nothing but what is installed."""
        words = shlex.split(line.replace(ADDRESS, self.oracle))
        if words[:2] == ["contextcir", "oracle"]:
            assert words.pop() == "&", line
            read_options(words[1:])
            truth = Truth.from_folder(words[words.index("--truth") + 1])
            self.oracle = self.enter_context(Oracle(truth)).removesuffix("/v1")
        elif words[0] == "curl":
            self.ask(words[1:], line)
        elif words[:2] != ["pip", "install"]:  # tests/test_extras.py and tests/test_wheel.py
            assert words[0] == "contextcir", f"{line}: mark the block as parsed only, and say why."
            with mock.patch.object(serve, "run") as started:
                assert main(smaller(words[1:])) == 0, line
            if started.called:
                app = started.call_args.args[0]
                self.client = self.enter_context(TestClient(app, base_url="http://127.0.0.1:8080"))

    def ask(self, words: list[str], line: str) -> None:
        """Send the form of a curl command to the server that the page has started."""
        fields = [word.split("=", 1) for word in words if "=" in word and not word.startswith("http")]
        files = {name: Path(value[1:]).read_bytes() for name, value in fields if value.startswith("@")}
        data = {name: value for name, value in fields if not value.startswith("@")}
        answer = self.client.post(words[-1], data=data, files=files or None)
        assert answer.status_code == 200 and answer.json(), f"{line}: {answer.text}"


def smaller(words: list[str]) -> list[str]:
    """The same command with less work: a few pairs, one step of a small batch, any free port."""
    for place, word in enumerate(words):
        if word == "--num_pairs":
            words = [*words[: place + 1], "8", *words[place + 2 :]]
    return [*words, *LESS.get(words[0], ())]


def parse(block: Block) -> None:
    """Compile Python; let commands of this library read their options, whatever launches them."""
    if block.language == "python":
        compile(block.code, block.section, "exec")
        return
    for line in commands(block.code):
        if "..." in line or "…" in line:
            continue  # an abbreviation
        for quoted in (re.search(r'--wrap "([^"]*)"', line), None):
            inner = quoted[1] if quoted else line
            if found := LAUNCHED.search(inner):
                rest = shlex.split(found["rest"].rstrip("& '"))
                read_options(["train", *rest] if "train.py " in found[0] else rest)
                break


def read_options(words: list[str]) -> None:
    """Let a command read its options, and stop it there."""
    original = options.CommandParser.parse

    def read(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raise Parsed

    try:
        with mock.patch.object(options.CommandParser, "parse", read):
            code = main(words)
    except Parsed:
        return
    # 1: the options exist, and what they name is not on this disk.
    assert code == 1, f"contextcir {shlex.join(words)} ended with {code} before it had read its options."
