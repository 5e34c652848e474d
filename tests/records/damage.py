"""Ways in which a file comes to be another than the one that was written."""

import random
from collections.abc import Callable
from pathlib import Path

BLOCK = 4096


def flip(data: bytes, points: random.Random) -> bytes:
    """One bit the other way."""
    at = points.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << points.randrange(8)]) + data[at + 1 :]


def zero(data: bytes, points: random.Random) -> bytes:
    """A block of the disk that was never written; not one of zeros anyway."""
    at = points.choice([k for k in range(0, len(data), BLOCK) if any(data[k : k + BLOCK])])
    return data[:at] + bytes(len(data[at : at + BLOCK])) + data[at + BLOCK :]


def cut(data: bytes, points: random.Random) -> bytes:
    """The end is missing."""
    return data[: points.randrange(len(data))]


OF_BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a bit flipped": flip,
    "a block zeroed": zero,
    "cut": cut,
}
INSTEAD: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[1, 2]\n",
    "a word": b"nothing\n",
    "a number": b"17\n",
    "not UTF-8": b"\xff\xfe\x00epoch\n",
    "not YAML": b"{a: [b\n",
}


def damage(path: Path, how: str, points: random.Random) -> None:
    """Damage a file in one of these ways; `replaced` names those of `INSTEAD` and two more."""
    if how in OF_BYTES:
        path.write_bytes(OF_BYTES[how](path.read_bytes(), points))
        return
    path.unlink()
    if how == "a directory":
        path.mkdir()
    elif how == "a link to nowhere":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(INSTEAD[how])


WAYS = (*OF_BYTES, *INSTEAD, "a directory", "a link to nowhere")
