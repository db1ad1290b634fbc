"""A gallery of drawn pictures with facts, a tiny model, and servers of it."""

import csv
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image, ImageDraw

COLOURS = {"red": "#d64545", "blue": "#3f6fd8", "green": "#3f9d5a", "yellow": "#e8b931"}
SHAPES = ("circle", "square", "triangle")
SIZES = (0.4, 0.6, 0.8)
COUNT = len(COLOURS) * len(SHAPES) * len(SIZES)  # 36


def draw(colour: str, shape: str, size: float, pixels: int = 120) -> Image.Image:
    """Draw a shape on paper."""
    image = Image.new("RGB", (pixels, pixels), "#f3efe6")
    pen, middle, radius = ImageDraw.Draw(image), pixels / 2, pixels * size / 2
    box = (middle - radius, middle - radius, middle + radius, middle + radius)
    if shape == "circle":
        pen.ellipse(box, COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, COLOURS[colour])
    else:
        pen.regular_polygon((middle, middle, radius), 3, fill=COLOURS[colour])
    return image


def draw_pictures(folder: Path) -> Path:
    """Draw all pictures, in a folder for each shape, with their facts."""
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for colour in COLOURS:
            for size in SIZES:
                name = f"{shape}/{colour} {round(100 * size)}.png"
                draw(colour, shape, size).save(folder / name)
                rows.append({"file_name": name, "colour": colour, "shape": shape, "size": round(100 * size)})
    rows[0]["price"] = 9.5  # the others have none
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "colour", "shape", "size", "price"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def png(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The content of an image file."""
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


class Server:
    """A server in a thread. `url` is its address."""

    def __init__(self, app: Any, port: int = 0):
        config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=3)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            if not self.thread.is_alive():
                raise RuntimeError("The server did not start.")
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Stop the server."""
        self.server.should_exit = True
        self.thread.join(15)


@contextmanager
def serving(app: Any) -> Iterator[Server]:
    """Serve an application within a context."""
    server = Server(app)
    try:
        yield server
    finally:
        server.stop()
