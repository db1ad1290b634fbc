"""`contextcir serve` as a process: its address, its signals, and what it leaves behind."""

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from contextcir.cli.main import main
from contextcir.cli.serve import ServeArguments, address, listen, read_examples

ROOT = Path(__file__).parents[2]
slow = pytest.mark.slow


@contextmanager
def command(*argv: str):
    """Run the command until it serves. Yields the process and the address that it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen(
        [sys.executable, "-m", "contextcir.cli.main", "serve", *argv, "--port", "0", "--threads", "1"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.match(r"(http://\S+)", line):
                break
        else:
            pytest.fail(f"It did not start: {process.stderr.read()[-2000:]}")
        process.said = "".join(lines)
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def files_of(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@slow
def test_serve_and_stop(stored, run, tmp_path):
    """It finds the model by itself, serves, finishes what it has begun, and ends with 0."""
    (tmp_path / "examples.jsonl").write_text('{"id": "circle/red 40.png", "text": "make it blue"}\n')
    before = files_of(stored)
    with command(str(stored), "--examples", str(tmp_path / "examples.jsonl"), "--log_requests") as (process, url):
        assert "36 images" in process.said
        info = httpx.get(f"{url}info").json()
        assert info["examples"] == [{"id": "circle/red 40.png", "text": "make it blue"}]
        assert info["capabilities"]["rerank"] is False
        assert httpx.post(f"{url}search", data={"text": "make it blue"}).status_code == 200
        if info["capabilities"]["phrases"]:
            found = httpx.post(f"{url}phrases", data={"text": "make the red circle blue"}).json()
            assert found["phrases"][0]["text"] == "the red circle"
            form = {"text": "make the red circle blue", "reference": "circle/red 40.png"}
            assert httpx.post(f"{url}attention", data=form).json()["phrases"][0]["context"]
        port = httpx.URL(url).port
        with socket.create_connection(("127.0.0.1", port)) as open_one:  # a form that never comes to its end
            head = "POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n"
            open_one.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b".encode())
            time.sleep(0.3)
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
            assert time.monotonic() - begin < 10
            assert open_one.recv(65536).startswith(b"HTTP/1.1 503")
        said = process.stderr.read()
        assert "POST /search 200" in said and "Traceback" not in said
    assert files_of(stored) == before


@slow
def test_interrupted_and_killed(stored):
    """A server that is killed in the middle of searches leaves the store whole, and no process behind."""
    before = files_of(stored)
    for number in (signal.SIGINT, signal.SIGKILL):
        with command(str(stored)) as (process, url):
            picture = (Path(stored).parent / "x").name.encode() * 100_000
            httpx.post(f"{url}search", files={"upload": ("a", picture)})  # starts a process that decodes
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            decoders = children.read_text().split() if children.exists() else []
            assert len(decoders) == 1
            stop = threading.Event()

            def search(url=url, stop=stop):
                while not stop.is_set():
                    try:
                        httpx.post(f"{url}search", data={"text": "make it blue"})
                    except httpx.TransportError:
                        return

            threads = [threading.Thread(target=search) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            process.send_signal(number)
            code = process.wait(12)
            stop.set()
            for thread in threads:
                thread.join()
            assert code == (0 if number == signal.SIGINT else -signal.SIGKILL)
            end = time.monotonic() + 5
            while any(Path(f"/proc/{pid}").exists() and is_alive(pid) for pid in decoders):
                assert time.monotonic() < end, "a process that decodes is left"
                time.sleep(0.05)
        assert files_of(stored) == before


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@slow
def test_public(stored):
    """Other machines may come in with the token that is part of the printed address."""
    with command(str(stored), "--public") as (process, printed):
        port, token = re.fullmatch(r"http://[^/]+:(\d+)/#token=(\S+)", printed).groups()
        assert len(token) >= 30
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/info").status_code == 401
        headers = {"Authorization": f"Bearer {token}", "Host": "photos.example.org"}
        assert httpx.get(f"{url}/info", headers=headers).status_code == 200


def test_addresses():
    assert ServeArguments("g").host == "127.0.0.1" and ServeArguments("g").token is None
    public = ServeArguments("g", public=True, token="a-secret-token")
    assert (public.host, public.token) == ("0.0.0.0", "a-secret-token")
    assert ServeArguments("g", public=True).token != ServeArguments("g", public=True).token
    assert ServeArguments("g", public=True, host="10.1.2.3").host == "10.1.2.3"
    with pytest.raises(ValueError, match=r"10\.1\.2\.3.*--public"):
        ServeArguments("g", host="10.1.2.3")
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address(ServeArguments("g"), taken) == f"http://127.0.0.1:{port}/"
        assert address(public, taken) == f"http://{socket.gethostname()}:{port}/#token=a-secret-token"


def test_errors_before_anything_is_loaded(stored, tmp_path, capsys):
    def fails(*argv: str) -> str:
        assert main(["serve", *argv]) in (1, 2)
        return capsys.readouterr().err

    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in fails(str(stored), "--port", port)
    assert "holds no gallery" in fails(str(tmp_path), "--port", "0")
    assert "--public" in fails(str(stored), "--host", "0.0.0.0")
    assert "8 ASCII" in fails(str(stored), "--token", "x")
    assert "--queue" in fails(str(stored), "--queues", "3")
    assert "queue" in fails(str(stored), "--queue", "0")
    assert "no effect" in fails(str(stored), "--tau", "0.5")
    assert "--trace" in fails(str(stored), "--chat_model", "m", "--base_url", "http://127.0.0.1:1/v1")
    assert "65535" in fails(str(stored), "--port", "70000")


def test_examples_of_a_file(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text('{"id": "a", "text": "b"}\n{"id": "c"}\n')
    assert read_examples(str(path)) == [("a", "b"), ("c", "")]
    for wrong in ('{"text": "b"}', "[]", "x", '{"id": "a"}\nx'):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=rf"line {1 + wrong.count(chr(10))}"):
            read_examples(str(path))
