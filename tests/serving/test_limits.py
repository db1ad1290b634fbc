"""Limits of uploads: bytes, pixels and time, counted while they arrive."""

import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from contextcir.serving import Settings, create_app
from tests.serving.world import draw, png, serving

PICTURE = png(draw("red", "circle", 0.5))


def upload(client, content: bytes, **form):
    return client.post("/search", files={"upload": ("picture.png", content)}, data=form)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of black pixels: a few kB that decode into a lot."""
    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((3 * width + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an image", "is not an image"),
        (PICTURE[:200], "cannot be decoded"),
        (b"", "empty"),
        (bomb(9000, 9000), "50,000,000 pixels"),
        (bomb(3000, 10), "too thin"),
    ],
    ids=["text", "truncated", "empty", "bomb", "thin"],
)
def test_bad_pictures(client, content, message):
    answer = upload(client, content)
    assert answer.status_code == 422 and message in answer.json()["error"]
    assert upload(client, PICTURE).status_code == 200  # the worker goes on


def test_too_many_bytes_however_they_are_sent(gallery, start):
    client = start(gallery, settings=Settings(upload_bytes=100_000))
    assert upload(client, b"x" * 300_000).status_code == 413
    assert "0.1 MB" in upload(client, b"x" * 300_000).json()["error"]
    assert upload(client, b"x" * 120_000).status_code == 413  # the fields may have 64 kB more
    read = []

    def pieces():
        yield b'--b\r\nContent-Disposition: form-data; name="upload"; filename="a"\r\n\r\n'
        for _ in range(1000):
            read.append(1)
            yield b"x" * 10_000

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert client.post("/search", content=pieces(), headers=headers).status_code == 413  # no length was declared


def test_a_body_without_end_is_refused_while_it_arrives(gallery):
    """What the header declares does not count: the server answers before the body has come, and reads no more."""
    with serving(create_app(gallery, settings=Settings(upload_bytes=100_000))) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            head = "POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
            connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
            begin = b'--b\r\nContent-Disposition: form-data; name="upload"; filename="a"\r\n\r\n'
            connection.sendall(b"%x\r\n%s\r\n" % (len(begin), begin))
            for _ in range(30):
                connection.sendall(b"%x\r\n%s\r\n" % (10_000, b"x" * 10_000))
            assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_fields_are_limited_too(client):
    assert client.post("/search", data={"text": "x" * 200_000}).status_code in (400, 413)
    assert client.post("/search", data={f"field{n}": "x" for n in range(30)}).status_code in (400, 422)
    files = [("upload", ("a.png", PICTURE)), ("upload", ("b.png", PICTURE))]
    assert client.post("/search", files=files).status_code == 400
    assert client.post("/search", files={"picture": ("a.png", PICTURE)}).status_code == 422


@pytest.mark.slow
def test_a_slow_upload_is_cut_off_and_holds_nobody_up(gallery):
    """One client sends a byte now and then. Others search meanwhile, and the slow one gets 408."""
    with serving(create_app(gallery, settings=Settings(upload_seconds=1.5, uploads=1))) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
            head = "POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900000\r\n"
            slow.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode())
            time.sleep(0.3)
            begin = time.perf_counter()
            answer = httpx.post(f"{server.url}/search", data={"text": "a star"})
            assert answer.status_code == 200 and time.perf_counter() - begin < 1
            large = {"upload": ("a.bmp", png(draw("red", "triangle", 0.5, 200), "BMP"))}
            busy = httpx.post(f"{server.url}/search", files=large)  # the only place for uploads is taken
            assert busy.status_code == 429 and busy.headers["Retry-After"]
            slow.settimeout(5)
            assert slow.recv(65536).startswith(b"HTTP/1.1 408")
        assert httpx.post(f"{server.url}/search", files=large).status_code == 200


def test_a_picture_that_takes_too_long(gallery, start):
    client = start(gallery, settings=Settings(decode_seconds=0.2))
    assert upload(client, bomb(7000, 7000)).status_code == 422  # 49 Mpx
    assert "0.2 s" in upload(client, bomb(7000, 7000)).json()["error"]


def test_the_server_answers_while_a_large_picture_is_decoded(gallery):
    with serving(create_app(gallery)) as server, ThreadPoolExecutor(2) as pool:
        assert httpx.post(f"{server.url}/search", files={"upload": ("a.png", PICTURE)}, timeout=30).status_code == 200
        files = {"upload": ("a.png", bomb(7000, 7000))}
        large = [pool.submit(httpx.post, f"{server.url}/search", files=files, timeout=60) for _ in range(2)]
        longest = 0.0
        while not all(one.done() for one in large):
            begin = time.perf_counter()
            assert httpx.get(f"{server.url}/health").status_code == 200
            longest = max(longest, time.perf_counter() - begin)
            time.sleep(0.02)
        assert [one.result().status_code for one in large] == [200, 200]
        assert longest < 1


def test_nothing_is_left_of_an_upload(gallery, start, tmp_path, monkeypatch):
    """Not even for a moment: a directory for temporary files that cannot be written to is no trouble."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    client = start(gallery)
    assert upload(client, png(draw("red", "circle", 0.5, 1500), "BMP")).status_code == 200  # 6.7 MB
    assert not list(tmp_path.iterdir())


def test_clients_that_go_away(gallery, retriever, monkeypatch):
    """Their searches are not carried out."""
    texts: list[str] = []
    hold = threading.Event()
    encode = retriever.encode_queries

    def held(images, some):
        texts.extend(some)
        hold.wait(10)
        return encode(images, some)

    monkeypatch.setattr(retriever, "encode_queries", held)
    app = create_app(gallery, settings=Settings(batch=1, wait=0))
    with serving(app) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(httpx.post, f"{server.url}/search", data={"text": "first"}, timeout=20)
        while texts != ["first"]:
            time.sleep(0.01)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/search", data={"text": "second"}, timeout=0.3)
        time.sleep(0.2)
        hold.set()
        assert first.result().status_code == 200
        assert httpx.post(f"{server.url}/search", data={"text": "third"}).status_code == 200
        assert app.state.service.batcher.pending == 0
    assert texts == ["first", "third"]


def test_what_lies_in_the_current_folder_is_not_run(gallery, start, tmp_path, monkeypatch):
    for name in ("numpy.py", "struct.py", "contextcir.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('a file of the current folder was run')")
    monkeypatch.chdir(tmp_path)
    assert upload(start(gallery), PICTURE).status_code == 200


def test_large_pictures_are_averaged_down(gallery, start):
    """The model sees a few hundred pixels: what it finds stays the same."""
    client = start(gallery)
    small, large = (
        upload(client, png(draw("green", "square", 0.6, pixels)), k=3).json()["results"] for pixels in (120, 4200)
    )
    assert small[0]["id"] == large[0]["id"] == "square/green 60.png"
    assert large[0]["score"] > 0.99
