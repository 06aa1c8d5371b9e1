import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpd_runtime.errors import BundleError
from dpd_runtime.files import MAX_DEPTH, MAX_JSON_BYTES, MAX_KEYS, parse_json

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(PLAIN)
def test_ordinary_json_is_what_json_reads(content: object) -> None:
    raw = json.dumps(content).encode()
    assert parse_json(raw, "x.json") == json.loads(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": 1, "a": 1}', "key 'a' occurs twice"),
        (b'[{"b": {"\\u0061": 1, "a": 2}}]', "key 'a' occurs twice"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested deeper than 32 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 32 levels"),
        (json.dumps(dict.fromkeys(map(str, range(MAX_KEYS + 1)))).encode(), "an object of 10001 keys, more than 10000"),
        (b"9" * 5000, "99999999999999999999 is too large a number"),
        (b"[1e999]", "1e999 is too large a number"),
        (b"-1e999", "-1e999 is too large a number"),
        (b"1.0000001e30", "1.0000001e30 is too large a number"),
        (b"[-Infinity]", "-Infinity is no number of JSON"),
        (b"\xff", "codec"),
        (b"", "Expecting value"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=rf"^x\.json is not valid JSON \(.*{message}") as caught:
        parse_json(raw, "x.json")
    assert "\n" not in str(caught.value)


def test_the_deepest_that_is_read() -> None:
    parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "x.json")
    parse_json(json.dumps(dict.fromkeys(map(str, range(MAX_KEYS)))).encode(), "x.json")
    parse_json(b"1".rjust(MAX_JSON_BYTES), "x.json")


def test_more_bytes_are_refused_unread() -> None:
    with pytest.raises(BundleError, match=r"^x\.json has 8388609 bytes, more than 8388608"):
        parse_json(b"?" * (MAX_JSON_BYTES + 1), "x.json")


def test_the_search_for_a_duplicate_key_is_linear() -> None:
    """In each of 40 objects of 10,000 keys the last occurs twice: 40 times 10^8 comparisons when it was quadratic."""
    one = ",".join(f'"k{number}": 0' for number in range(MAX_KEYS - 1))
    started = time.process_time()
    for _ in range(40):
        with pytest.raises(BundleError, match="key 'k9998' occurs twice"):
            parse_json(f'{{{one}, "k9998": 1}}'.encode(), "x.json")
    assert time.process_time() - started < 2
