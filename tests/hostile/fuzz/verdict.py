"""What a site does with a bundle, and whether that was right: it is refused in one line, or it does no harm."""

import contextlib
import os
import re
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from dpd_export.peak_memory import peak_bytes, reset_peak
from dpd_runtime import untrusted
from dpd_runtime.bundle import load_bundle
from dpd_runtime.classifier import RECORD_NAME, images_below, label_folder, load_engine, open_classifier
from dpd_runtime.dataset import write_set
from dpd_runtime.engine_files import engine_records
from dpd_runtime.errors import CheckError, DegenerateImageError, DpdError, ProviderError
from dpd_runtime.generation import generate, resolve_sampler
from dpd_runtime.golden import golden_case, golden_of

CPU_SECONDS = 20.0
MEMORY_MB = 2_200
GATE = "not its golden images"
"""Outcome of a bundle whose networks and golden images contradict each other: exit code 1, and nothing is written."""
LABELS = "labels"
"""Outcome of a classifier that runs: whatever it says of an image."""
HARMLESS = ("refused", "refused while running", "the same set", "another set", "no image", "memory", LABELS, GATE)
AUDITS = ("PASS", "WARN", "FAIL", "unaudited")
UNTRUSTED = r"unsigned|signed by unknown key [0-9a-f]{32}"
MISLEADING = r"(?i)(con|nul|aux|prn|com\d|lpt\d)( *\..*)?|-.*|.*\.partial|.*[. ]"
WRITTEN = (".png", ".tif", ".json", ".jsonl", ".md", ".txt")


@dataclass(frozen=True)
class Verdict:
    """outcome: one of HARMLESS, or what went wrong. said: the line for the user. peak_mb: beyond what was in use."""

    outcome: str
    said: str
    cpu_seconds: float
    peak_mb: float

    @property
    def good(self) -> bool:
        return self.outcome in HARMLESS


def generated(path: Path, out: Path) -> str:
    """The set hash of one image, after everything that `dpd info`, `verify` and `generate` read has been read.

    LABELS of a classifier, which labels the image beside it.
    """
    if (path / RECORD_NAME).is_file():
        classifier, images = open_classifier(path), path.parent / "images"
        label_folder(classifier, load_engine(classifier, "cpu", None, 1)[1], images, images_below(images))
        return LABELS
    bundle = load_bundle(path)
    signature = bundle.signature.describe()
    if bundle.manifest.audit not in AUDITS or not re.fullmatch(UNTRUSTED, signature):
        raise AssertionError(f"a bundle says of itself: {bundle.manifest.audit}, {signature}")
    codes_only = bundle.manifest.codes_only  # whose golden images `dpd generate` reads, as its gate asks for them
    golden = None if codes_only else golden_of(bundle)
    if golden is not None:
        golden_case(golden, bundle)
    engine_records(bundle.files, bundle.manifest.files)
    sampler = bundle.manifest.sampler if codes_only else resolve_sampler(bundle.manifest.sampler, steps=1, candidates=1)
    first = (bundle.classes[0].name,)
    made = write_set(generate(bundle, ipc=1, classes=first, sampler=sampler, provider="cpu", threads=1), out)
    return str(made.set_hash)


def judged(path: Path, folder: Path, untouched: str) -> Verdict:
    """Args:
    folder: holds the bundle at `path`, and the set is written to `out` in it. untouched: set hash of the good bundle.
    """
    out, before, children = folder / "out", _listing(folder), _children_mb()
    started, said = time.process_time(), ""
    reset_peak()
    base = peak_bytes()
    try:
        found = generated(path, out)
        outcome = LABELS if found == LABELS else "the same set" if found == untouched else "another set"
    except DegenerateImageError as error:
        outcome, said = "no image", str(error)
    except CheckError as error:
        outcome, said = GATE, str(error)
    except ProviderError as error:
        outcome, said = "memory" if "more memory" in str(error) else "provider error", str(error)
    except DpdError as error:
        started_writing = out.exists() and any(out.iterdir())
        outcome, said = "refused while running" if started_writing else "refused", str(error)
        if error.exit_code != 3:
            outcome = f"exit {error.exit_code}"
    except Exception as error:
        outcome, said = f"internal error {type(error).__name__}", str(error)
    untrusted._process.cache_clear()  # the process of this bundle's graphs ends, and counts
    seconds, peak, held = time.process_time() - started, (peak_bytes() - base) / 2**20, _children_mb()
    if held > children:  # otherwise the most is that of an earlier process, which in pytest is any test's
        peak = max(peak, held)
    wrong = _wrong(out, folder, before, outcome, said)
    if seconds > CPU_SECONDS:
        wrong = f"slow: {seconds:.0f} s"
    if peak > MEMORY_MB:
        wrong = f"memory: {peak:.0f} MB"
    return Verdict(wrong or outcome, said, seconds, peak)


def _children_mb() -> float:
    """The most that any process started from here has held."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _listing(folder: Path) -> set[str]:
    return {f"{root}/{name}" for root, folders, files in os.walk(folder) for name in (*folders, *files)}


def _wrong(out: Path, folder: Path, before: set[str], outcome: str, said: str) -> str | None:
    """What nobody may see, whatever the outcome."""
    new = {Path(name) for name in _listing(folder) - before}
    if any(path != out and out not in path.parents for path in new):
        return "wrote outside --out"
    if any(path.is_file() and path.suffix not in WRITTEN for path in new):
        return "wrote a strange file"
    if any(re.fullmatch(MISLEADING, path.name) for path in new):
        return "wrote a misleading name"
    finished = any(path.name == "dataset.json" for path in new)
    if outcome in ("refused", GATE) and new - {out}:
        return "wrote before it refused"
    if finished is not outcome.endswith("set"):
        return "a set without success, or success without a set"
    with contextlib.suppress(UnicodeEncodeError):
        said.encode()
        if outcome in HARMLESS and ("\n" in said or len(said) > 1000):
            return "more than a line"
    return None
