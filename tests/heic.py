"""HEIC files as phones write them: a picture in tiles, or whole, with its thumbnail before it."""

import struct
from pathlib import Path

import av
import numpy as np

THUMBNAIL, FIRST = 1, 2  # numbers of items


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def full(kind: bytes, version: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24), *parts)


def coded(folder: Path, colour: int, side: int) -> tuple[bytes, bytes]:
    """Answers a grey picture's `hvcC` box and its data."""
    path = folder / "tile.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=1, options={"x265-params": "log-level=none:keyint=1:pools=none:frame-threads=1"})
        stream.height = stream.width = side
        stream.pix_fmt, stream.codec_context.codec_tag = "yuv420p", "hvc1"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((side, side, 3), colour, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    found = {}
    for kind in (b"hvcC", b"mdat"):
        at = data.index(kind)
        found[kind] = data[at - 4 : at - 4 + struct.unpack(">I", data[at - 4 : at])[0]]
    return found[b"hvcC"], found[b"mdat"][8:]


def write_heic(path: Path, tiles: int, side: int = 64) -> Path:
    """Writes a thumbnail of half the side and behind it a white picture: of one item, or of so many tiles beside each other."""
    items = [(THUMBNAIL, side // 2, coded(path.parent, 0, side // 2))]
    items += [(FIRST + tile, side, coded(path.parent, 255, side)) for tile in range(tiles)]
    numbers, whole = [number for number, _, _ in items], FIRST + tiles
    main = FIRST if tiles == 1 else whole
    size = struct.pack(">II", tiles * side, side)
    grid = bytes([0, 0, 0, tiles - 1]) + struct.pack(">HH", tiles * side, side)
    properties = [part for _, item, (settings, _) in items for part in (settings, full(b"ispe", 0, struct.pack(">II", item, item)))]
    owned = [struct.pack(">HBBB", number, 2, 0x81 + 2 * at, 2 + 2 * at) for at, number in enumerate(numbers)]
    owned.append(struct.pack(">HBB", whole, 1, len(properties) + 1))
    named = [(number, b"hvc1") for number in numbers] + [(whole, b"grid")] * (tiles > 1)
    made_of = box(b"dimg", struct.pack(f">HH{tiles}H", whole, tiles, *numbers[1:])) if tiles > 1 else b""

    def meta(start: int) -> bytes:
        places = []
        for number, _, (_, data) in items:
            places.append(struct.pack(">HHHHII", number, 0, 0, 1, start, len(data)))
            start += len(data)
        places.append(struct.pack(">HHHHII", whole, 1, 0, 1, 0, len(grid)))  # in `idat`
        return full(
            b"meta",
            0,
            full(b"hdlr", 0, b"\0\0\0\0pict", bytes(13)),
            full(b"pitm", 0, struct.pack(">H", main)),
            full(b"iloc", 1, b"\x44\x00", struct.pack(">H", len(places)), *places),
            full(
                b"iinf",
                0,
                struct.pack(">H", len(named)),
                *(full(b"infe", 2, struct.pack(">HH", number, 0), kind, b"\0") for number, kind in named),
            ),
            full(b"iref", 0, made_of, box(b"thmb", struct.pack(">HHH", THUMBNAIL, 1, main))),
            box(
                b"iprp",
                box(b"ipco", *properties, full(b"ispe", 0, size)),
                full(b"ipma", 0, struct.pack(">I", len(owned)), *owned),
            ),
            box(b"idat", grid),
        )

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    start = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(start) + box(b"mdat", *(data for _, _, (_, data) in items)))
    return path
