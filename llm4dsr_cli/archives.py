"""ZIP archives that may be damaged: wheels, and gates."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib

# What zipfile raises for an archive that is not whole, or that it cannot read. RuntimeError: a member is encrypted;
# NotImplementedError, which is one: it is packed by a method that zipfile does not know. ValueError, OverflowError and
# struct.error come from directories of nonsense.
ARCHIVE_ERRORS = (
    *(OSError, EOFError, RuntimeError, ValueError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
