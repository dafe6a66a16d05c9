"""Which codec unpacks a transfer syntax, of those that are installed."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from pydicom import config
from pydicom.uid import UID

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import Decoder

__all__ = ["CODECS_FIX", "can_decode", "codec_of"]

CODECS_FIX: Final = "install the codecs: pip install 'medseg[dicom]'"

_PREFERRED_PLUGINS: Final = ("pylibjpeg", "pyjpegls", "gdcm", "pillow", "pydicom")
"""In this order, so that a machine with several decodes as one with few, and GDCM where nothing else does."""


def codec_of(syntax: UID) -> tuple[Decoder, str] | None:
    """Pydicom's decoder and the plugin to use; ``None`` where no plugin for it is installed.

    Raises:
        NotImplementedError: Pydicom knows no way to decode it, with whatever plugin.
    """
    from pydicom.pixels.decoders.base import get_decoder  # takes long to load, plain files need none of it

    decoder = get_decoder(syntax)
    plugin = next((name for name in _PREFERRED_PLUGINS if name in decoder.available_plugins), None)
    return None if plugin is None else (decoder, plugin)


@cache
def can_decode(transfer_syntax_uid: str) -> bool:
    """Whether voxels of a transfer syntax can be read here.

    Example:
        >>> can_decode("1.2.840.10008.1.2.1"), can_decode("1.2.840.10008.1.2.4.100")  # plain; MPEG-2
        (True, False)
    """
    # Without its warning of what is no UID, which quotes the header.
    syntax = UID(transfer_syntax_uid, config.IGNORE)
    try:
        return not syntax.is_encapsulated or codec_of(syntax) is not None
    except (NotImplementedError, ValueError):  # a film, or no transfer syntax at all
        return False
