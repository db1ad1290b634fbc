"""Decode uploads in processes of their own, which may be slow, grow, or crash without harm to the server.

A worker reads pictures from its input and writes pixels to its output, until the input ends. So it also ends when the
server is killed. A worker that takes too long is killed, and another one started.
"""

import asyncio
import os
import struct
import sys
from contextlib import suppress

from PIL import Image

from contextcir.data.images import ImageError, load_image

QUESTION = struct.Struct("!QQ")  # bytes of the file, most pixels
ANSWER = struct.Struct("!?IIQ")  # whether it could be read, width, height, bytes of pixels or of the reason
ENOUGH = 1024  # pixels of the shorter side. Models see a few hundred: larger pictures are averaged down by 2, 3, ...
MEMORY = 3 << 30  # bytes of address space; 50 Mpx with transparency take about 1 GB
NAME = "the upload"


class Decoders:
    """
    Worker processes that decode pictures.

    Args:
        count (`int`): Most workers. They start when they are needed.
        seconds (`float`): Time that a picture may take.
        pixels (`int`): Largest picture.
    """

    def __init__(self, count: int, seconds: float, pixels: int):
        self.seconds, self.pixels = seconds, pixels
        self._idle: list[asyncio.subprocess.Process] = []
        self._places = asyncio.Semaphore(count)

    async def decode(self, content: bytes) -> Image.Image:
        """
        Decode the content of an image file, as [`~contextcir.data.images.load_image`] does.

        Returns:
            `Image.Image`: RGB. A picture whose shorter side is above `2 * ENOUGH` is averaged down by a whole number.

        Raises:
            `ImageError`: The picture cannot be read, is too large, or takes too long.
        """
        async with self._places:
            worker = self._idle.pop() if self._idle else await self._start()
            try:
                image = await asyncio.wait_for(self._ask(worker, content), self.seconds)
            except (asyncio.TimeoutError, asyncio.IncompleteReadError, OSError) as error:
                await _kill(worker)
                late = isinstance(error, asyncio.TimeoutError)
                reason = f"takes more than {self.seconds:g} s to decode" if late else "cannot be decoded"
                raise ImageError(f"{NAME}: {reason}. Scale it down, or save it as JPEG.") from error
            except ImageError:
                self._idle.append(worker)
                raise
            except BaseException:  # cancelled: the worker is in the middle of something
                await _kill(worker)
                raise
            self._idle.append(worker)
            return image

    async def close(self) -> None:
        """End the workers."""
        while self._idle:
            await _kill(self._idle.pop())

    async def _start(self) -> asyncio.subprocess.Process:
        # The same modules as here, whatever lies in the current folder.
        code = f"import sys; sys.path[:] = {sys.path!r}; from contextcir.serving.decoder import main; main()"
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the server, which then finishes what it has begun
        )

    async def _ask(self, worker: asyncio.subprocess.Process, content: bytes) -> Image.Image:
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(QUESTION.pack(len(content), self.pixels) + content)
        await worker.stdin.drain()
        good, width, height, length = ANSWER.unpack(await worker.stdout.readexactly(ANSWER.size))
        answer = await worker.stdout.readexactly(length)
        if not good:
            raise ImageError(answer.decode())
        return Image.frombytes("RGB", (width, height), answer)


async def _kill(worker: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        worker.kill()
    await worker.wait()


def shrink(image: Image.Image) -> Image.Image:
    """Average a large picture down by a whole number, so that its shorter side has at least `ENOUGH` pixels."""
    factor = min(image.size) // ENOUGH
    return image.reduce(factor) if factor > 1 else image


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # not everywhere
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def main() -> None:
    """Decode what comes in, until the input ends."""
    _limit_memory()
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while len(head := source.read(QUESTION.size)) == QUESTION.size:
        length, pixels = QUESTION.unpack(head)
        content = source.read(length)
        if len(content) < length:
            return
        try:
            image = shrink(load_image(content, name=NAME, max_pixels=pixels))
            good, size, answer = True, image.size, image.tobytes()
        except ImageError as error:
            good, size, answer = False, (0, 0), str(error).encode(errors="replace")
        target.write(ANSWER.pack(good, *size, len(answer)))
        target.write(answer)
        target.flush()
