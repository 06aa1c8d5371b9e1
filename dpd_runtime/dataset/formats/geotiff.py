"""GeoTIFF: images of any bands in physical values, with what each band is. Made-up scenes have no georeference."""

import io
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np

from dpd_runtime.annotations import Pixels
from dpd_runtime.dataset.formats.encoding import Encoding
from dpd_runtime.errors import MissingExtraError
from dpd_runtime.images.bands import Band, physical

GDAL_METADATA = 42112  # the TIFF tag in which GDAL keeps what is known about each band


@dataclass(frozen=True, kw_only=True)
class GeoTiff(Encoding):
    """The encoding of images with these bands: one float32 page a band, not mixed, compressed without loss."""

    bands: tuple[Band, ...]

    def encode(self, pixels: Pixels) -> bytes:
        """The file's bytes for pixels uint8 [H, W, N]. Equal pixels give equal bytes."""
        import tifffile

        height, width, count = pixels.shape
        values = np.empty((count, height, width), np.float32)
        for top, row in enumerate(pixels):  # `physical` computes in float64
            values[:, top] = physical(row, self.bands).T
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer,
            values,
            photometric="minisblack",
            planarconfig="separate" if len(self.bands) > 1 else None,
            compression="zlib",
            metadata=None,
            software=False,
            extratags=[(GDAL_METADATA, "s", 0, gdal_metadata(self.bands), True)],
        )
        return buffer.getvalue()

    def check(self) -> None:
        """Raises:
        MissingExtraError: tifffile is not installed.
        """
        try:
            import tifffile  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("tifffile", "bands") from error


def gdal_metadata(bands: tuple[Band, ...]) -> str:
    """The XML that GDAL reads: description, unit and centre wavelength of each band, in ASCII, as the tag wants."""
    items = []
    for sample, band in enumerate(bands):
        items.append(f'<Item name="DESCRIPTION" sample="{sample}" role="description">{_plain(band.name)}</Item>')
        if band.unit:
            items.append(f'<Item name="UNITTYPE" sample="{sample}" role="unittype">{_plain(band.unit)}</Item>')
        if band.wavelength:
            items.append(
                f'<Item name="CENTRAL_WAVELENGTH_UM" sample="{sample}" domain="IMAGERY">{band.wavelength:g}</Item>'
            )
    return f"<GDALMetadata>{''.join(items)}</GDALMetadata>"


def _plain(text: str) -> str:
    """Escaped twice, as GDAL reads the XML and then replaces what looks like an entity once more."""
    return escape(escape(text)).encode("ascii", "xmlcharrefreplace").decode()
