"""Find file names of real images and paths of this machine, in texts and in readable parts of binary files."""

import json
import re
from pathlib import PurePosixPath

from dpd_eval.audit.artefacts.artefact import Artefact, Traces
from dpd_runtime.files import home_folder

READABLE = re.compile(rb"[\x20-\x7e]{6,}")
WORD = re.compile(rb"[\w.\-]+")
FOLDERS = "home|Users|root|tmp|var|mnt|media|data|work|scratch|srv|opt|workspace|nfs|gpfs|lustre|Volumes"
# ONNX nodes have names such as /unet/mid_block/…, so only usual top-level folders make an absolute path. A letter, a
# colon and a backslash occur by chance in megabytes of weights, so a Windows path must have at least two names.
PATH = re.compile(
    rf"(?<![\w.])/(?:{FOLDERS})/[\w.\-]+".encode() + rb"|\b[A-Za-z]:\\{1,2}[\w.\- ]{3,}\\{1,2}[\w.\- ]{3,}"
)
OF_A_SET = re.compile(r".+_\d{5}")
TEXTS = (".json", ".jsonl", ".md", ".txt", ".csv")


def find_text(name: str, content: bytes, traces: Traces, *, of_set: bool) -> list[Artefact]:
    """Find file names (or their distinctive stems) of real images, and absolute paths."""
    readable = b"\n".join(READABLE.findall(content))
    words = {word.decode() for word in WORD.findall(readable)}
    words |= {word.strip(".-") for word in words}  # at the end of a sentence
    words |= {PurePosixPath(word).stem for word in words}
    whole = content.decode("utf-8", "ignore") if name.endswith(TEXTS) else readable.decode()
    artefacts = [Artefact(name, "a file name of a real image", known) for known in _known(traces, words, whole, of_set)]
    places = (*(root.resolve() for root in traces.roots), home_folder())
    roots = {str(root) for root in places if root is not None and len(root.parts) > 2}
    paths = {match.decode("utf-8", "replace") for match in PATH.findall(readable)}
    paths |= {root for root in roots if root in whole}
    return artefacts + [Artefact(name, "a path", path) for path in sorted(paths)]


def _known(traces: Traces, words: set[str], whole: str, of_set: bool) -> list[str]:
    names = []
    for full in traces.names:
        base = full.rsplit("/", 1)[-1]
        stem = PurePosixPath(base).stem
        if of_set and OF_A_SET.fullmatch(stem):
            continue  # the set's own file names have this form
        if WORD.fullmatch(base.encode()):
            distinctive = len(stem) >= 6 and any(c.isdigit() for c in stem)
            hit = base in words or (distinctive and stem in words)
        else:
            hit = base in whole or json.dumps(base, allow_nan=False)[1:-1] in whole
        names += [full] if hit else []
    return names
