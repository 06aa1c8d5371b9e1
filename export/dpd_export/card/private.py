"""The model card of codes with differential privacy: what is guaranteed, and no figure of private images."""

from dpd_export.card.card import front_matter, most_images, parity_section, parts_section, what_section
from dpd_export.card.content import CardContent, line, table


def private_card(content: CardContent) -> bytes:
    """The card in Hugging Face's format: YAML front matter, then Markdown."""
    sections = (what_section, parts_section, _classes, _privacy, _use, parity_section, _commands)
    blocks = [front_matter(content.manifest), *(section(content) for section in sections)]
    return ("\n\n".join(block for block in blocks if block) + "\n").encode()


def _classes(content: CardContent) -> str:
    images = content.run["data"]["classes"]
    rows = [
        (label, entry["name"], images[entry["name"]], len(entry["prototype_counts"]))
        for label, entry in enumerate(content.classes["classes"])
    ]
    return f"""## Classes

{table(("label", "class", "private images", "codes"), rows)}

These names and numbers, and the size of the images, count as public."""


def _privacy(content: CardContent) -> str:
    claim = content.manifest.privacy
    assert claim is not None
    multipliers = table(
        ("released", "noise multiplier"), [(name, f"{value:.6g}") for name, value in claim.noise_multipliers.items()]
    )
    return f"""## Privacy

**({claim.epsilon:.6g}, {claim.delta:g})-differential privacy. Unit: {line(claim.unit)}.** Such an exchange changes \
the probability
of any property of this bundle by at most the factor e^{claim.epsilon:.6g}, and by {claim.delta:g} more.

Mechanism: {line(claim.mechanism)}. A noise multiplier is the standard deviation of the noise divided by what one image
can change.

{multipliers}

The private images entered through these statistics and nothing else. The noise came from the operating system. The
codes are public images in the released colours of a class, chosen by the statistics. Networks, scales and limits were
made from public images. `dpd` chose nothing of this bundle by private ones.

- It holds if the base and the public images were never made from the private images.
- Several images of one place are not one image: k of them have the guarantee of k times the change.
- Each further bundle from the same images tells more. Guarantees add up.
- That this bundle exists tells that every private file could be read, that no public image was found to be nearly a
  private one, and that the maker's limit allowed another release. The guarantee does not cover this.
- There is no audit here, no fingerprint and no accuracy: such figures come from the private images."""


def _use(content: CardContent) -> str:
    height, width, _ = content.manifest.image_shape
    return f"""## Intended use and limits

For training classifiers of these classes where the real images must not go.

- It knows these classes and {height} x {width} pixels. Noise hides what is rare in a class.
- The images are public ones in other colours, as a network gives them back: a car park may stand for a town. They show
  none of the private places, and what may be done with the public images limits what may be done with these."""


def _commands(content: CardContent) -> str:
    most = most_images(content)
    return f"""## How to use it

    dpd info BUNDLE
    dpd generate BUNDLE --ipc {most} --seed 0 --out distilled

The first command checks every file's hash and describes the bundle. The second makes {most} images per class. With
`--require-signature --require-dp EPSILON,DELTA` it refuses a maker who is not trusted and a weaker claim than these.
The package `dpd-distill` with its extra `cpu`, from the maker's wheelhouse or clone, is enough for both."""
