"""Turn the answer of a vision-language model into clean phrases that other images can share."""

import re
import unicodedata

FORMAT = 1  # raise it if the same answer gives other phrases, so that stored ones are made again
MAX_PHRASES = 8
MAX_WORDS = 4
MAX_LETTERS = 40

INSTRUCTION = (
    f"Describe this satellite image with at most {MAX_PHRASES} short phrases of one to {MAX_WORDS} words each, "
    "separated by commas: land cover, land use, objects, their density and arrangement, colours, texture. Name only "
    "what can be seen. Write no sentences, no place names, no numbers and no positions such as left, top or centre."
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LEADING = _words("a an the and or with of in on some several there is are it this image photo picture shows showing")
# A text encoder reads "no roads" as roads.
_NEGATIONS = _words("no not none without unknown unclear unidentifiable")
# Training turns and mirrors images, so positions do not hold.
_POSITIONS = _words(
    "left right top bottom upper lower north south east west northern southern eastern western "
    "northeast northwest southeast southwest corner corners center centre middle background foreground"
)
LONGEST_ANSWER = 10_000  # letters that are read, far more than MAX_PHRASES phrases need
_STOCK = re.compile(r"(?:satellite|aerial|overhead|bird's[- ]eye) (?:image|imagery|photo|photograph|picture|view)\b")
_PHRASE = re.compile(r"[a-z]+(?:[ '-][a-z]+)*")


def parse(answer: str) -> tuple[str, ...]:
    """At most MAX_PHRASES phrases of lower-case words, in the order of the answer, each once.

    Phrases are left out if they have digits or other signs, more than MAX_WORDS words or MAX_LETTERS letters, a
    negation or a position, or if they only say that this is a satellite image.
    """
    text = unicodedata.normalize("NFKC", answer.rpartition("</think>")[2][:LONGEST_ANSWER]).lower().replace("’", "'")
    text = re.sub(r"[^,;.\n:]*:", "", text)  # labels, as "land cover:"
    phrases: dict[str, None] = {}
    for piece in re.split(r"[,;.!?|/()\[\]\n•]+", text):
        words = _content(re.sub(r"[*_`\"#]+", " ", piece).strip(" \t-'").split())
        phrase = " ".join(words)
        if _PHRASE.fullmatch(phrase) and len(words) <= MAX_WORDS and len(phrase) <= MAX_LETTERS and _usable(words):
            phrases[phrase] = None
    return tuple(phrases)[:MAX_PHRASES]


def _content(words: list[str]) -> list[str]:
    """The words without introductory ones such as "this is a satellite image of"."""
    while words:
        stock = _STOCK.match(" ".join(words))
        skip = len(stock[0].split()) if stock else int(words[0] in _LEADING)
        if not skip:
            break
        words = words[skip:]
    return words


def _usable(words: list[str]) -> bool:
    parts = {part for word in words for part in word.split("-")}
    return not parts & (_NEGATIONS | _POSITIONS)
