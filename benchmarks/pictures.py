"""Make the README's pictures: contact sheet, report, and real, decoded and sampled images side by side.

dpd generate --ipc 10 --out decoded
dpd generate --ipc 10 --candidates 3 --out sampled
dpd report benchmarks/results/eurosat.json decoded --out report.html
chromium --headless --no-sandbox --disable-gpu --window-size=1000,1250 --screenshot=report.png report.html
python benchmarks/pictures.py --real eurosat/train --decoded decoded --sampled sampled --report report.png \\
    --out docs/images

The real images are EuroSAT's (Helber et al. 2019, MIT licence, contains Copernicus Sentinel data): the first four file
names of each class, sorted as strings, so that nobody chose them.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CLASSES = ("Forest", "Highway", "Industrial", "Pasture", "Residential", "River", "SeaLake")
EACH, SIDE, GAP, LEFT, TOP = 4, 64, 2, 86, 24
COLOURS = 256  # a palette keeps each picture below 300 kB


def first_images(folder: Path, name: str) -> list[Image.Image]:
    """Return the first images of a class folder by file name."""
    return [Image.open(path).convert("RGB") for path in sorted((folder / name).iterdir())[:EACH]]


def side_by_side(columns: dict[str, Path]) -> Image.Image:
    """Draw one row for each class and one group of images for each column, with the column's name above it."""
    group = EACH * (SIDE + GAP)
    sheet = Image.new("RGB", (LEFT + len(columns) * (group + 4 * GAP), TOP + len(CLASSES) * (SIDE + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, name in enumerate(CLASSES):
        draw.text((4, TOP + row * (SIDE + GAP) + SIDE // 2), name, "black", font, "lm")
    for column, (title, folder) in enumerate(columns.items()):
        x = LEFT + column * (group + 4 * GAP)
        draw.text((x + group // 2, TOP // 2), title, "black", font, "mm")
        for row, name in enumerate(CLASSES):
            for i, image in enumerate(first_images(folder, name)):
                sheet.paste(image, (x + i * (SIDE + GAP), TOP + row * (SIDE + GAP)))
    return sheet


def save(image: Image.Image, path: Path) -> None:
    """Save a picture with a palette and print its size."""
    image.convert("RGB").quantize(COLOURS).save(path, optimize=True)
    print(f"{path}: {image.width} x {image.height} px, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Read the arguments and write the pictures."""
    parser = argparse.ArgumentParser(description="Make the README's pictures.")
    for name in ("real", "decoded", "sampled", "report", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    columns = {
        "real (EuroSAT)": options.real,
        "decoded (default)": options.decoded,
        "sampled (--candidates 3)": options.sampled,
    }
    save(Image.open(options.decoded / "contact_sheet.png"), options.out / "contact_sheet.png")
    save(side_by_side(columns), options.out / "side_by_side.png")
    save(Image.open(options.report), options.out / "report.png")


if __name__ == "__main__":
    main()
