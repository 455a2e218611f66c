"""Pages of an Ogg stream (RFC 3533): its serial number, which encoders draw by chance, made the same every time."""

from __future__ import annotations

import zlib

HEADER = 27  # bytes, before the table of segments
SERIAL, CHECKSUM = slice(14, 18), slice(22, 26)  # of a page
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def with_serial(data: bytes, serial: int) -> bytes:
    """One stream with another serial number, its checksums made good. ValueError for what is no such stream."""
    out, position = bytearray(data), 0
    while position < len(out):
        table = out[position + HEADER : position + HEADER + out[position + HEADER - 1]]
        end = position + HEADER + len(table) + sum(table)
        if out[position : position + 4] != b"OggS" or end > len(out):
            raise ValueError(f"byte {position:,} of {len(out):,} begins no page of an Ogg stream")
        page = out[position:end]
        page[SERIAL] = serial.to_bytes(4, "little")
        page[CHECKSUM] = bytes(4)
        page[CHECKSUM] = _checksum(page).to_bytes(4, "little")
        out[position:end], position = page, end
    return bytes(out)


def _checksum(page: bytes | bytearray) -> int:
    """Ogg's CRC-32: zlib's polynomial, most significant bit first, nothing inverted before or after."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
