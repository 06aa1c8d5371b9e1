"""Format numbers and arms for the page: percent, points, seconds, bytes, words."""

from dpd_eval.comparison.arm_names import is_joint, is_own, jpeg_megabytes, own_part
from dpd_runtime.text import plural

MINUS, SPACE = "−", "\N{NO-BREAK SPACE}"
ARMS = {
    "set": "the set",
    "random": "random real images",
    "herding": "real images chosen by herding",
    "k-center": "real images chosen by k-center",
    "k-means": "real images nearest to k-means centroids",
    "tdds": "real images with the highest TDDS scores",
    "foreground": "real images cut to their foreground",
    "full": "the full real training data",
    "labels": "real images that a classifier named",
}


def arm_words(arm: str) -> str:
    """Name an arm in a sentence."""
    if is_joint(arm):
        return f"the set with {arm_words(own_part(arm))}"
    if (size := jpeg_megabytes(arm)) is not None:
        return f"real images as JPEGs in {size:g}{SPACE}MB"
    return f"{arm} images per class" if is_own(arm) else ARMS.get(arm, arm)


def percent(share: float, digits: int = 1) -> str:
    """Format 0.6182 as `61.8 %`."""
    return f"{100 * share:.{digits}f}{SPACE}%".replace("-", MINUS)


def signed(value: float, digits: int = 2) -> str:
    """Format with a typographic sign, or without one for a value that rounds to zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def points(difference: float, digits: int = 2) -> str:
    """Format a difference of shares in percentage points: −0.0186 → `−1.86`."""
    return signed(100 * difference, digits)


def duration(seconds: float) -> str:
    """Format as `45 s`, `12 min 5 s` or `3 h 20 min`."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f}{SPACE}s"
    if whole < 60:
        return f"{whole}{SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{SPACE}min {whole % 60}{SPACE}s"
    return f"{whole // 3600}{SPACE}h {whole % 3600 // 60}{SPACE}min"


def megabytes(size: float) -> str:
    return f"{size / 1e6:.2f}{SPACE}MB" if size >= 1e4 else f"{size:.0f}{SPACE}bytes"


def grouped(number: float) -> str:
    """Format 12000 as `12 000`."""
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def count(number: int, one: str, many: str | None = None) -> str:
    """Format as `1 pair`, `8 pairs`, `12 000 images`."""
    return grouped(number) + SPACE + (one if number == 1 else many or plural(one))


def listed(words: list[str]) -> str:
    """Join as `a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def plain(value: object) -> str:
    """Format any JSON value for a table: numbers with four digits, lists with commas."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
        return text.replace("-", MINUS)
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return str(value)
