"""Read the bytes of an image file, whatever a path leads to and however its name is written."""

import os
import stat
import unicodedata
from pathlib import Path

from contextcir.data.pixels import ImageError

MAX_BYTES = 1 << 29  # 50 million pixels of 16 bits and four channels, uncompressed, take 400 MB


def read_file(path: str | os.PathLike, name: str) -> bytes:
    """
    Read a regular file of at most 512 MB.

    Args:
        path (`str` or `os.PathLike`): The file, see [`existing_path`].
        name (`str`): Name of the image in errors.

    Raises:
        [`~contextcir.data.images.ImageError`]: There is no such file, it cannot be read, or it is a folder, a pipe, a
            socket or a device (these would never end), or larger.
    """
    try:
        path = existing_path(path)
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "a pipe, a socket or a device"
            raise ImageError(f"{name}: is {kind}, expected a file. Check the path ({path!r}).")
        if facts.st_size > MAX_BYTES:
            raise _too_long(name)
        with open(path, "rb") as file:
            content = file.read((facts.st_size or MAX_BYTES) + 1)  # some file systems say 0
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file. Check the path ({os.fspath(path)!r}).") from None
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # no permission, a null character in the path
        raise ImageError(f"{name}: cannot be read ({error}). Check the path and its permissions.") from error
    if len(content) > MAX_BYTES:
        raise _too_long(name)
    return content


def existing_path(path: str | os.PathLike) -> str:
    """Return a path as it is on disk, if its names are there in another Unicode form: "é" is one character (NFC) or,
    from macOS and in some archives, two (NFD). Return a path that is nowhere as it was given."""
    given = os.fspath(path)
    if os.path.lexists(given):
        return given
    found = ""
    for part in Path(given).parts:
        forms = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        found = next((there for form in forms if os.path.lexists(there := os.path.join(found, form))), "")
        if not found:
            return given
    return found


def _too_long(name: str) -> ImageError:
    return ImageError(f"{name}: has more than {MAX_BYTES:,} bytes. Is it an image? Scale it down.")
