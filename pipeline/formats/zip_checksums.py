"""Verify the CRC-32 of a zip file's members, because torch.load silently accepts flipped bits.

damage = zip_damage(path)          # "data/0 does not match its checksum", or "" if the file is intact
"""

import struct
import zipfile
import zlib
from mmap import ACCESS_READ, mmap
from pathlib import Path

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature; lengths of the name and of the extra field
_SIGNATURE = b"PK\x03\x04"


def zip_damage(path: Path) -> str:
    """The problem with the first damaged member of an uncompressed zip file, as written by torch.save."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        try:
            members = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            return f"its zip directory is unreadable ({error})"
        for member in members:
            if not _is_sound(member, content):
                return f"{member.filename!r} does not match its checksum"
    return ""


def _is_sound(member: zipfile.ZipInfo, content: mmap) -> bool:
    """Whether the bytes that torch will read are intact."""
    header = content[member.header_offset : member.header_offset + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size or member.compress_type != zipfile.ZIP_STORED:
        return False
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    end = start + member.file_size
    if signature != _SIGNATURE or member.file_size != member.compress_size or end > len(content):
        return False
    with memoryview(content) as view, view[start:end] as data:
        return zlib.crc32(data) == member.CRC
