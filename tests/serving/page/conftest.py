"""The page in a real Chromium. Tests skip where there is none."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from contextcir.retrieval.base import Gallery
from contextcir.serving import Answer, Judged, create_app
from tests.serving.test_looks import looks, phrases_of
from tests.serving.world import Server

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
HERE = Path(__file__).parent
EXAMPLES = [("circle/red 40.png", "make it blue"), ("square/green 60.png", "as a triangle")]


def pytest_collection_modifyitems(items):
    """All of these are slow."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="package")
def browser():
    """Chromium, without a window. Playwright keeps an event loop running: other packages must not find it."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="the page is tested with playwright: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("The page is tested in Chromium, which is not installed: apt-get install chromium")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*root, "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class World:
    """A server of the gallery. `pause` slows searches down, `errors` are what pages have complained of."""

    def __init__(self, gallery, port: int = 0, **options):
        self.pause, self.errors = 0.0, []
        embed = gallery.embed

        def slowed(*args, **kwargs):
            time.sleep(self.pause)
            return embed(*args, **kwargs)

        gallery.embed = slowed
        self.app = create_app(gallery, **options)
        self.server = Server(self.app, port)
        self.url = f"{self.server.url}/"


def judge(query, gallery, ids):
    """The last one first."""
    answers = [Answer(question="Is it blue?", expected="yes", got="yes")]
    return [Judged(id=id_, answers=answers, verdict="accept", reason=f"{id_} is fine.") for id_ in reversed(ids)]


@pytest.fixture(scope="package")
def shared(stored, retriever, browser):
    """The server that tests share which do not change it."""
    world = World(
        Gallery.open(stored, retriever), examples=EXAMPLES, phrases=phrases_of, attention=looks, rerank=judge
    )
    yield world
    world.server.stop()


@pytest.fixture
def world(shared):
    """The shared server, as fast as it is."""
    shared.pause, shared.errors = 0.0, []
    yield shared
    shared.pause = 0.0
    assert shared.errors == []


@pytest.fixture
def own(stored, retriever, browser):
    """Servers of one test: `own(settings=...)`."""
    worlds = []

    def make(gallery=None, **options) -> World:
        gallery = Gallery.open(stored, retriever) if gallery is None else gallery  # one without images is false
        worlds.append(World(gallery, **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.server.stop()


@pytest.fixture
def visit(browser):
    """Open a page of a server: `visit(world, "#ref=...", width=375)`. What a page complains of is kept there; requests
    that were answered with an error count only if `failures` is false."""
    contexts = []

    def make(world, hash_: str = "", *, width: int = 1280, height: int = 860, failures: bool = False, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()

        def complain(message):
            excused = "willReadFrequently" in message.text  # of a test that looks at pixels
            excused |= failures and "Failed to load resource" in message.text
            if message.type in ("error", "warning") and not excused:
                world.errors.append(message.text)

        page.on("console", complain)
        page.on("pageerror", lambda error: world.errors.append(str(error)))
        page.goto(f"{world.url}{hash_}")
        return page

    yield make
    for context in contexts:
        context.close()


def found(page) -> list[str]:
    """The ids of the results that are shown."""
    titles = page.locator(".grid .pick[title]").evaluate_all("all => all.map((one) => one.title)")
    return [title for title in titles if title]


def status(page, text: str) -> None:
    """Wait until the line above the results says something."""
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_contain_text(re.compile(text))
