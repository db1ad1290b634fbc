"""Limits of a served gallery, and who may ask it."""

import re
from dataclasses import dataclass

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_TEXT = 500  # characters of a modification text
MAX_RESULTS = 100


@dataclass(frozen=True)
class Settings:
    """
    Limits of a served gallery. Every one of them holds for all clients together.

    Args:
        token (`str`, *optional*): What requests must carry as `Authorization: Bearer TOKEN`. By default nothing.
        hosts (`tuple[str, ...]`, *optional*): Names of this server that requests may use. By default those of
            this machine alone, so that no web site reaches the server by pointing its own name here. `None`: any.
        frames (`tuple[str, ...]`): Web sites that may show the page in a frame, such as `https://huggingface.co`. By
            default none.
        upload_bytes (`int`): Largest file of an upload.
        pixels (`int`): Largest picture of an upload.
        upload_seconds (`float`): Time that a request body may take to arrive.
        decode_seconds (`float`): Time that the decoding of a picture may take.
        uploads (`int`): Uploads that are read and decoded at a time.
        decoders (`int`): Processes that decode uploads.
        queue (`int`): Searches that wait or run at a time. The next one is answered 429.
        batch (`int`): Most searches of one forward pass.
        wait (`float`): Seconds that a search waits for others to join it.

    Raises:
        `ValueError`: A number is out of range.
    """

    token: str | None = None
    hosts: tuple[str, ...] | None = LOOPBACK
    frames: tuple[str, ...] = ()
    upload_bytes: int = 10_000_000
    pixels: int = 50_000_000
    upload_seconds: float = 30.0
    decode_seconds: float = 10.0
    uploads: int = 8
    decoders: int = 2
    queue: int = 64
    batch: int = 16
    wait: float = 0.004

    def __post_init__(self):
        for name in ("upload_bytes", "pixels", "uploads", "decoders", "queue", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"Got {name}={getattr(self, name)}, expected at least 1.")
        if min(self.upload_seconds, self.decode_seconds) <= 0 or not 0 <= self.wait <= 1:
            raise ValueError(f"Got wait={self.wait} s, expected 0 to 1, and positive limits of time.")
        for site in self.frames:
            if not re.fullmatch(r"https?://[\w.*:-]+", site):
                raise ValueError(f"Got the site {site!r} for frames, expected one like https://huggingface.co.")
        if self.token is not None and (len(self.token) < 8 or not self.token.isascii() or " " in self.token):
            raise ValueError("A token has at least 8 ASCII characters and no space.")
