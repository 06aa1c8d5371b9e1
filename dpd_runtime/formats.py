"""File formats of a distilled set, one section for each."""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import prod
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from dpd_runtime.annotations import Array as AnyArray
from dpd_runtime.annotations import Float32, Pixels
from dpd_runtime.bands import Band, physical
from dpd_runtime.errors import InputError, MissingExtraError
from dpd_runtime.files import open_atomically, write_atomically
from dpd_runtime.text import counted

# -- Encodings of single images.


@dataclass(frozen=True)
class Encoding:
    """An image format of Pillow's.

    Args:
        quality: 1 … 100 for a lossy format, as in Pillow; None for a lossless one.
        options: further options of Pillow.
    """

    name: str
    suffix: str
    quality: int | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def encode(self, pixels: Pixels) -> bytes:
        """The file's bytes for pixels uint8 [H, W, 3]. Equal pixels give equal bytes."""
        options: dict[str, Any] = dict(self.options)
        if self.quality is not None:
            options["quality"] = self.quality
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=self.name.upper(), **options)
        return buffer.getvalue()

    def check(self) -> None:
        """Check that the installed Pillow has the encoder.

        Raises:
            InputError: it does not.
        """
        try:
            self.encode(np.zeros((8, 8, 3), np.uint8))
        except (OSError, KeyError) as error:
            raise InputError(
                f"--image-format {self.name}: Pillow cannot write it here ({error}); use png or install Pillow with pip"
            ) from error


@dataclass(frozen=True)
class Array(Encoding):
    """NumPy's format, which holds any number of bands. Only unfinished sets have such files."""

    def encode(self, pixels: Pixels) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, pixels, allow_pickle=False)
        return buffer.getvalue()


PNG = Encoding("png", ".png")
NPY = Array("npy", ".npy")
ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        PNG,
        Encoding("jpeg", ".jpg", 95, (("subsampling", 0),)),  # small scenes have fine colour details
        Encoding("webp", ".webp", 95),
        Encoding("tiff", ".tiff", None, (("compression", "tiff_deflate"),)),
    )
}


# -- The interface of a format: it packs the images of a complete set into files.


@dataclass(frozen=True)
class Sample:
    """One image: its line of metadata.jsonl, pixels uint8 [H, W, N], soft label float32 [C] or None."""

    record: dict[str, Any]
    pixels: Pixels
    soft_label: Float32 | None


@dataclass(frozen=True)
class Contents:
    """The properties of a set that are known before its first image.

    Args:
        images: their number.
        classes: names of all classes of the bundle, by label.
        side: (height, width) of every image.
        soft_labels: whether the samples have soft labels.
        bands: of the images; empty for RGB.
    """

    images: int
    classes: tuple[str, ...]
    side: tuple[int, int]
    encoding: Encoding
    soft_labels: bool
    bands: tuple[Band, ...] = ()


@dataclass(frozen=True)
class Format:
    """A format.

    Args:
        pack: writes all samples, in the order (class utf-8, index), to the set's folder with few in memory at a time.
            Returns the names of the files that hold the whole set. The same samples give the same bytes.
        files: pattern of those names.
        encodes: whether it holds encoded images, so that an image format can be chosen.
        image_name: (class name, label, index, suffix) → the image's `file_name` in metadata.jsonl.
        check: raises MissingExtraError if a package is missing. It is called before anything is computed.
    """

    name: str
    pack: Callable[[Iterator[Sample], Path, Contents], list[str]]
    files: re.Pattern[str]
    encodes: bool
    image_name: Callable[[str, int, int, str], str]
    check: Callable[[], None] = lambda: None


def folder_name(class_name: str, label: int, index: int, suffix: str) -> str:
    """The name of an image in an ImageFolder."""
    return f"{class_name}/{class_name}_{index:05d}{suffix}"


# -- ImageFolder: a folder for each class with its image files, as most training frameworks read it.


def pack_imagefolder(samples: Iterator[Sample], out: Path, contents: Contents) -> list[str]:
    """Write each image under its `file_name`. No file holds the whole set."""
    for sample in samples:
        path = out / sample.record["file_name"]
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, contents.encoding.encode(sample.pixels), below=out)
    return []


IMAGEFOLDER = Format("imagefolder", pack_imagefolder, re.compile(r"(?!)"), encodes=True, image_name=folder_name)


# -- NumPy: one .npz file of arrays for `numpy.load`, without pickle.


NPZ_NAME = "set.npz"


def pack_npz(samples: Iterator[Sample], out: Path, contents: Contents) -> list[str]:
    """Write set.npz.

    Its arrays are images uint8 [n, H, W, 3], labels int64 [n], index int32 [n], class_names str [C] and, with soft
    labels, soft_labels float32 [n, C]. Images of N bands are [n, H, W, N], with band_names str [N], wavelengths (µm)
    float32 [N], low and high float64 [N], the physical values that 0 and 255 stand for, and decibels bool [N]. The file
    equals that of `numpy.savez`, which needs all pixels in memory at once.
    """
    labels, indices, soft = [], [], []
    with open_atomically(out / NPZ_NAME) as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("images.npy"), "w", force_zip64=True) as entry:
            shape = (contents.images, *contents.side, len(contents.bands) or 3)
            npy.write_array_header_1_0(entry, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for sample in samples:
                entry.write(np.ascontiguousarray(sample.pixels).tobytes())
                labels.append(sample.record["label"])
                indices.append(sample.record["index"])
                if sample.soft_label is not None:
                    soft.append(sample.soft_label)
        arrays: dict[str, AnyArray] = {
            "labels": np.array(labels, np.int64),
            "index": np.array(indices, np.int32),
            "class_names": np.array(contents.classes),
        }
        if contents.soft_labels:
            arrays["soft_labels"] = np.array(soft, np.float32)
        if contents.bands:
            arrays |= {
                "band_names": np.array([band.name for band in contents.bands]),
                "wavelengths": np.array([band.wavelength for band in contents.bands], np.float32),
                "low": np.array([band.low for band in contents.bands], np.float64),
                "high": np.array([band.high for band in contents.bands], np.float64),
                "decibels": np.array([band.decibels for band in contents.bands], np.bool_),
            }
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                npy.write_array(entry, array, allow_pickle=False)
    return [NPZ_NAME]


NPZ = Format("npz", pack_npz, re.compile(re.escape(NPZ_NAME)), encodes=False, image_name=folder_name)


# -- GeoTIFF: images of any bands in physical values, with what each band is. Made-up scenes have no georeference.


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


# -- Parquet: one file in the layout of Hugging Face `datasets`, which reads images as Image and labels as ClassLabel.
#
# The feature types are in the schema's metadata under `huggingface`. Other readers see a struct of bytes and path.


NAME = "set.parquet"
ROW_GROUP = 100  # images in memory at a time, or fewer that have MOST_BYTES together
MOST_BYTES = 2**28
PLAIN = {
    "index": "int32",
    "prototype": "int32",
    "prompt": "string",
    "candidate": "int32",
    "margin": "float32",
    "seed": "uint64",
}


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pyarrow


def _check() -> None:
    _pyarrow()


def _schema(pyarrow: Any, contents: Contents) -> Any:
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = [("image", image), ("label", pyarrow.int64())]
    columns += [(name, getattr(pyarrow, kind)()) for name, kind in PLAIN.items()]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    features["label"] = {"names": list(contents.classes), "_type": "ClassLabel"}
    features |= {name: {"dtype": kind, "_type": "Value"} for name, kind in PLAIN.items()}
    if contents.soft_labels:
        count = len(contents.classes)
        columns.append(("soft_labels", pyarrow.list_(pyarrow.float32(), count)))
        # all versions of datasets read "Sequence"; new ones turn it into List
        features["soft_labels"] = {
            "feature": {"dtype": "float32", "_type": "Value"},
            "length": count,
            "_type": "Sequence",
        }
    return pyarrow.schema(
        columns, metadata={"huggingface": json.dumps({"info": {"features": features}}, allow_nan=False)}
    )


def _row(sample: Sample, contents: Contents) -> dict[str, Any]:
    record = sample.record
    row: dict[str, Any] = {name: record[name] for name in PLAIN}
    row["image"] = {"bytes": contents.encoding.encode(sample.pixels), "path": record["file_name"].rpartition("/")[2]}
    row["label"] = record["label"]
    if sample.soft_label is not None:
        row["soft_labels"] = sample.soft_label
    return row


def pack_parquet(samples: Iterator[Sample], out: Path, contents: Contents) -> list[str]:
    """Write set.parquet with ROW_GROUP images in each row group, fewer of large images."""
    pyarrow = _pyarrow()
    schema = _schema(pyarrow, contents)
    count = max(1, min(ROW_GROUP, MOST_BYTES // (3 * prod(contents.side))))
    with open_atomically(out / NAME) as handle, pyarrow.parquet.ParquetWriter(handle, schema) as writer:
        while rows := [_row(sample, contents) for sample in islice(samples, count)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
    return [NAME]


PARQUET = Format(
    "parquet", pack_parquet, re.compile(re.escape(NAME)), encodes=True, image_name=folder_name, check=_check
)


# -- WebDataset: tar files that are read sequentially.
#
# A sample consists of the members with one key: the image, `cls` (label), `json` (its line of metadata.jsonl) and, with
# soft labels, `soft_labels.npy`. A key is LABEL_INDEX, because class names may have dots, which end a key.


SHARD = 1000  # images


def _name(class_name: str, label: int, index: int, suffix: str) -> str:
    return f"{label:05d}_{index:05d}{suffix}"


def _members(sample: Sample, contents: Contents) -> Iterator[tuple[str, bytes]]:
    name = str(sample.record["file_name"])
    key = name.removesuffix(contents.encoding.suffix)
    yield name, contents.encoding.encode(sample.pixels)
    yield f"{key}.cls", str(sample.record["label"]).encode()
    yield f"{key}.json", json.dumps(sample.record, allow_nan=False).encode()
    if sample.soft_label is not None:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, sample.soft_label, allow_pickle=False)
        yield f"{key}.soft_labels.npy", buffer.getvalue()


def pack(samples: Iterator[Sample], out: Path, contents: Contents) -> list[str]:
    """Write shard-000000.tar and so on, with SHARD images each and the rest in the last one."""
    names: list[str] = []
    for first in samples:
        name = f"shard-{len(names):06d}.tar"
        with (
            open_atomically(out / name) as handle,
            tarfile.open(fileobj=handle, mode="w", format=tarfile.USTAR_FORMAT) as shard,
        ):
            for sample in chain([first], islice(samples, SHARD - 1)):
                for member, content in _members(sample, contents):
                    entry = tarfile.TarInfo(
                        member
                    )  # owner, group and time are 0, so that equal samples give equal bytes
                    entry.size = len(content)
                    shard.addfile(entry, io.BytesIO(content))
        names.append(name)
    return names


WEBDATASET = Format("webdataset", pack, re.compile(r"shard-\d{6,}\.tar"), encodes=True, image_name=_name)


# -- The requested form of a set: format, image format, soft labels.


FORMATS = {known.name: known for known in (IMAGEFOLDER, WEBDATASET, PARQUET, NPZ)}
OF_BANDS = (IMAGEFOLDER, NPZ)
"""Formats that hold images of any bands."""
UNFINISHED_NAME = ".unfinished"


@dataclass(frozen=True)
class Output:
    """The form in which a set is written.

    Args:
        format: a name of FORMATS.
        image_format: a name of ENCODINGS; None for png, or for a format without encoded images.
        soft_labels: whether the bundle's teacher labels every image.
        bands: of the bundle's images; empty for RGB.

    Raises:
        InputError: an unknown name, an image format for a format without encoded images, or a form that cannot hold
            the bands.
    """

    format: str = IMAGEFOLDER.name
    image_format: str | None = None
    soft_labels: bool = False
    bands: tuple[Band, ...] = ()

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            meant = f"; for {self.format} files use --image-format {self.format}" if self.format in ENCODINGS else ""
            raise InputError(f"format {self.format!r} is unknown: use one of {', '.join(FORMATS)}{meant}")
        if self.bands and self.kind not in OF_BANDS:
            names = " or ".join(known.name for known in OF_BANDS)
            raise InputError(
                f"--format {self.format} holds RGB, and this bundle has {counted(len(self.bands), 'band')}: use {names}"
            )
        if self.bands and self.image_format is not None:
            raise InputError(
                f"--image-format {self.image_format} holds RGB, and this bundle has "
                f"{counted(len(self.bands), 'band')}, which "
                "are written as GeoTIFF: leave it out"
            )
        if self.image_format is None:
            return
        if self.image_format not in ENCODINGS:
            meant = f"; for a {self.image_format} set use --format" if self.image_format in FORMATS else ""
            raise InputError(f"image-format {self.image_format!r} is unknown: use one of {', '.join(ENCODINGS)}{meant}")
        if not self.kind.encodes:
            raise InputError(
                f"--image-format {self.image_format} has no effect with --format {self.format}, which stores plain "
                "pixels; leave it out"
            )

    @property
    def form(self) -> str:
        """Format and encoding in words, such as "imagefolder png"."""
        return " ".join((self.format, *([self.encoding.name] if self.kind.encodes else ())))

    @property
    def kind(self) -> Format:
        return FORMATS[self.format]

    def of(self, bands: tuple[Band, ...]) -> "Output":
        """This form for images of these bands."""
        return replace(self, bands=bands)

    @property
    def encoding(self) -> Encoding:
        if self.bands:
            return GeoTiff("geotiff", ".tif", bands=self.bands)
        return ENCODINGS[self.image_format or PNG.name]

    @property
    def direct(self) -> bool:
        """Whether images are written to their final place at once. Otherwise they are kept as PNG until all are
        computed: a lossy file no longer has the pixels of the set hash, and a packed file cannot be repaired. Physical
        values of bands are not those pixels either."""
        return self.kind is IMAGEFOLDER and self.encoding.quality is None and not self.bands

    @property
    def block_encoding(self) -> Encoding:
        """The encoding of the image files of an unfinished set."""
        return self.encoding if self.direct else waiting_encoding(bool(self.bands))

    def block_folder(self, out: Path) -> Path:
        """The folder of the image files of an unfinished set."""
        return out if self.direct else out / UNFINISHED_NAME

    def header(self) -> dict[str, Any]:
        """The part of a set's header about its form. Defaults are left out, as in old sets."""
        form: dict[str, Any] = {"format": self.format} if self.kind is not IMAGEFOLDER else {}
        encoded = self.kind.encodes and self.encoding is not PNG
        form |= {"image_format": self.encoding.name} if encoded else {}
        return form | ({"bands": len(self.bands)} if self.bands else {})

    def describe(self) -> dict[str, Any]:
        """The part of a set's record about the form of its images."""
        form: dict[str, Any] = {"format": self.format, "bands": self.bands}
        return form | (
            {"image_format": self.encoding.name, "quality": self.encoding.quality} if self.kind.encodes else {}
        )

    def check(self) -> None:
        """Check that this form can be written here. Call it before anything is computed or deleted.

        Raises:
            MissingExtraError: a package is not installed.
            InputError: the installed Pillow lacks the encoder.
        """
        self.kind.check()
        if self.kind.encodes:
            self.encoding.check()


def waiting_encoding(bands: bool) -> Encoding:
    """The encoding of images that wait for the others: NumPy's format where PNG cannot hold them."""
    return NPY if bands else PNG


def file_suffix(image_format: str) -> str:
    """The suffix of the images of a finished set, by the name of their encoding; that of PNG for an unknown name."""
    return ".tif" if image_format == "geotiff" else ENCODINGS.get(image_format, PNG).suffix
