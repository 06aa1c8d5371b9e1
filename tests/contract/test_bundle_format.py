"""The page bundle-format.md says what the code does: its vectors, by the code and by another reader."""

import dataclasses
import hashlib
import json
import re
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dpd_runtime import archive, trust
from dpd_runtime import archive as encryption
from dpd_runtime.archive import HEADER_BYTES, Header, encrypt, parse_header
from dpd_runtime.dataset import set_hash
from dpd_runtime.manifest import Manifest
from dpd_runtime.sampler import BlockGuidance, Sampler
from dpd_runtime.sampling import NoiseStream, noise_key
from dpd_runtime.trust import PublicKey, check_signature, parse_signature, signature_json
from tests.unit.runtime.test_encryption import independent

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "bundle-format.md"
if not PAGE.is_file():
    pytest.skip("the documents are not here", allow_module_level=True)
TEXT = PAGE.read_text(encoding="utf-8")


def vector(name: str) -> Any:
    (block,) = re.findall(rf"```json {name}\n(.*?)```", TEXT, re.DOTALL)
    return json.loads(block)


def test_the_signature() -> None:
    given = vector("signature")
    manifest, content = given["bundle_json"].encode(), given["bundle_sig"]
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(given["private_key"]))
    raw = bytes.fromhex(given["public_key"])
    # by the primitives
    assert private.public_key().public_bytes_raw() == raw
    assert content["key_id"] == hashlib.sha256(raw).digest()[:16].hex()
    Ed25519PublicKey.from_public_bytes(raw).verify(bytes.fromhex(content["sig"]), manifest)
    # by the code
    key = PublicKey("lab", raw)
    written = signature_json(key, private.sign(manifest))
    assert json.loads(written) == content
    assert parse_signature(written) == (content["key_id"], bytes.fromhex(content["sig"]))
    assert check_signature(manifest, written, [key]).trusted


@pytest.mark.parametrize("number", [0, 1])
def test_encrypted_files(number: int) -> None:
    given = vector("encryption")[number]
    whole, plain = bytes.fromhex(given["file"]), bytes.fromhex(given["plain"])
    key = bytes.fromhex(given["key_file"]) if "key_file" in given else given["passphrase"]
    assert independent(whole, key) == plain
    out = BytesIO()
    encrypt(BytesIO(plain), out, key, parse_header(PAGE, whole[:HEADER_BYTES]))
    assert out.getvalue() == whole


def test_an_encrypted_file_of_two_chunks() -> None:
    given, out = vector("chunks"), BytesIO()
    key, plain = bytes.fromhex(given["key_file"]), bytes(i % 251 for i in range(given["plain_bytes"]))
    encrypt(BytesIO(plain), out, key, Header(0, bytes.fromhex(given["salt"]), given["chunk"]))
    assert len(out.getvalue()) == given["file_bytes"]
    assert hashlib.sha256(out.getvalue()).hexdigest() == given["file_sha256"]
    assert independent(out.getvalue(), key) == plain


ROW = re.compile(r"^\| (\d+) \| `(.+?)` \| (\d+) \| (\d+) \| `([0-9a-f]{32})` \| (.+) \|$", re.MULTILINE)


def drawn(key: bytes, count: int) -> npt.NDArray[np.float64]:
    """The page's noise, number by number."""
    raw = np.random.Philox(key=np.array(struct.unpack("<QQ", key), np.uint64)).random_raw(count)
    uniform = [((int(x) >> 11) + 0.5) * 2.0**-53 for x in raw]
    numbers = []
    for u0, u1 in zip(uniform[::2], uniform[1::2], strict=True):
        r = np.sqrt(-2 * np.log(u0))
        numbers += [r * np.cos(2 * np.pi * u1), r * np.sin(2 * np.pi * u1)]
    return np.array(numbers)


def test_noise() -> None:
    rows = ROW.findall(TEXT)
    assert len(rows) == 3
    for seed, name, index, candidate, key, shown in rows:
        message = b"dpd1" + struct.pack("<QI", int(seed), len(name.encode())) + name.encode()
        message += struct.pack("<II", int(index), int(candidate))
        assert hashlib.sha256(message).digest()[:16].hex() == key
        assert noise_key(int(seed), name, int(index), int(candidate)).hex() == key
        numbers = [float(number.replace("−", "-")) for number in shown.split(", ")]
        np.testing.assert_allclose(drawn(bytes.fromhex(key), 4), numbers, atol=1e-7)
        found = NoiseStream(int(seed), name, int(index), int(candidate)).normal((4,))
        np.testing.assert_allclose(found, numbers, atol=2e-7)


def test_the_set_hash() -> None:
    given = vector("set_hash")
    images = [(i["class"], i["index"], np.array(i["pixels"], np.uint8)) for i in given["images"]]
    assert set_hash(images) == given["set_hash"]
    digest = hashlib.sha256()
    for name, index, pixels in sorted(images, key=lambda image: (image[0].encode(), image[1])):
        height, width, _ = pixels.shape
        digest.update(struct.pack("<I", len(name.encode())) + name.encode())
        digest.update(struct.pack("<III", index, height, width) + bytes(pixels.ravel().tolist()))
    assert digest.hexdigest() == given["set_hash"]


def keys_of(table: str) -> set[str]:
    return set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE))


def test_every_key_of_the_manifest_is_on_the_page_and_no_other() -> None:
    start = TEXT.index("## bundle.json")
    middle, end = TEXT.index("\n`sampler`:", start), TEXT.index("## The files")
    assert keys_of(TEXT[start:middle]) == {field.name for field in dataclasses.fields(Manifest)}
    assert keys_of(TEXT[middle:end]) == {field.name for field in dataclasses.fields(Sampler)}
    assert [f.name for f in dataclasses.fields(BlockGuidance) if f"`{f.name}`" not in TEXT[middle:end]] == []


def test_the_limits_on_the_page() -> None:
    low, high = encryption.CHUNKS
    for number in (low, f"{high:,}", f"{encryption.DEFAULT_CHUNK:,}", f"{archive.MAX_ENTRIES:,}"):
        assert f"{number}" in TEXT
    assert f"log2 N: {encryption.COSTS[0]} … {encryption.COSTS[1]}" in TEXT
    assert f"At most {trust.MAX_SIGNATURE_BYTES} bytes" in TEXT
    assert encryption.HEADER_BYTES == 80
