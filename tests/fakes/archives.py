"""Files that hide what is in them from a scanner that gives up early: encrypted, too big inside, nested, too many.

Made here byte by byte where the standard library cannot (it reads encrypted archives, but writes none).
"""

import io
import random
import struct
import zipfile
import zlib

MIB = 1 << 20
PASSWORD = b"secret"


def zipped(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these (name, content)."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression, compresslevel=1) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return target.getvalue()


def big_member(size: int, tail: bytes) -> bytes:
    """A small zip: `size` zeros, then `tail`."""
    return zipped(("big", bytes(size) + tail))


def nested(levels: int, content: bytes) -> bytes:
    """A zip in a zip in a zip ... with `content` in the innermost."""
    for _ in range(levels):
        content = zipped(("inner.zip", content))
    return content


def many_members(number: int, last: bytes) -> bytes:
    """`number` members of which the last is `last`."""
    names = ((f"m{place}", b"member %d" % place) for place in range(number - 1))
    return zipped(*names, ("last", last))


def bomb(blocks: int, last: bytes) -> bytes:
    """A zip in a zip: one member of `blocks` times 10 MiB of zeros, then `last`. Gigabytes from kilobytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(10 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)  # from here on all begins afresh
    data = block * blocks + packer.compress(last) + packer.flush()
    # Version, flags, method, time, date, CRC (nobody gets to its end), sizes, length of the name, of the extra field.
    about = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, 0, len(data), blocks * 10 * MIB + len(last), 4, 0)
    member = b"PK\3\4" + about + b"bomb" + data
    index = b"PK\1\2" + struct.pack("<H", 20) + about + struct.pack("<HHHII", 0, 0, 0, 0, 0) + b"bomb"
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(index), len(member), 0)
    return zipped(("bomb.zip", member + index + end))


def encrypted_zip(content: bytes) -> bytes:
    """As `zip -P` writes it (APPNOTE.TXT 6.1, traditional PKWARE encryption)."""
    crc = zlib.crc32(content)
    cipher = _ZipCipher(PASSWORD)
    head = random.Random(0).randbytes(11) + bytes([crc >> 24])
    archive = bytearray(zipped(("secret", cipher.encrypted(head + content)), compression=zipfile.ZIP_STORED))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = archive.index(signature)
        archive[start + at] |= 1  # general purpose bit 0: encrypted
        archive[start + at + 8 : start + at + 12] = crc.to_bytes(4, "little")
        archive[start + at + 16 : start + at + 20] = len(content).to_bytes(4, "little")
    return bytes(archive)


class _ZipCipher:
    def __init__(self, password: bytes) -> None:
        self._keys = [0x12345678, 0x23456789, 0x34567890]
        for byte in password:
            self._update(byte)

    def _update(self, byte: int) -> None:
        keys = self._keys
        keys[0] = _crc_step(keys[0], byte)
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = _crc_step(keys[2], keys[1] >> 24)

    def encrypted(self, data: bytes) -> bytes:
        result = bytearray()
        for byte in data:
            word = (self._keys[2] | 2) & 0xFFFF
            result.append(byte ^ ((word * (word ^ 1)) >> 8 & 0xFF))
            self._update(byte)
        return bytes(result)


def _crc_step(crc: int, byte: int) -> int:
    """One byte of CRC-32 without the inversions at both ends."""
    return zlib.crc32(bytes([byte]), crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def encrypted_pdf(content: bytes) -> bytes:
    """A PDF whose one stream asks for a password (PDF 1.4, standard security handler, revision 3)."""
    scrambled = random.Random(1).randbytes(len(content))
    key = b"<" + random.Random(2).randbytes(32).hex().encode() + b">"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(scrambled), scrambled),
        b"<< /Filter /Standard /V 2 /R 3 /Length 128 /P -44 /O %s /U %s >>" % (key, key),
    ]
    text, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(text))
        text += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    identity = b"<" + bytes(range(16)).hex().encode() + b">"
    text += b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R /Encrypt 5 0 R /ID [%s %s] >>\n" % (
        table,
        identity,
        identity,
    )
    return text + b"startxref\n%d\n%%%%EOF\n" % text.index(b"xref")
