"""The fixed phrases that `clip:ID` chooses from: land use, and the words that `attributes` measures."""

from dataclasses import dataclass

from dpd_train.captions.attributes import COLOURS, ORIENTATIONS, STRUCTURES, TEXTURES

LAND_USE = (
    "crop fields",
    "meadow",
    "pasture",
    "orchard",
    "vineyard",
    "terraces",
    "greenhouses",
    "dense forest",
    "sparse trees",
    "bushes",
    "bare land",
    "desert",
    "sand",
    "rock",
    "mountains",
    "snow",
    "clouds",
    "sea",
    "lake",
    "river",
    "pond",
    "wetland",
    "beach",
    "island",
    "dense houses",
    "sparse houses",
    "tall buildings",
    "large roofs",
    "mobile homes",
    "storage tanks",
    "solar panels",
    "power plant",
    "church",
    "school",
    "parking lot",
    "cars",
    "road",
    "road intersection",
    "freeway",
    "overpass",
    "roundabout",
    "bridge",
    "railway",
    "runway",
    "airplanes",
    "harbor with boats",
    "ships",
    "sports field",
    "baseball diamond",
    "tennis court",
    "basketball court",
    "stadium",
    "golf course",
    "swimming pool",
    "cemetery",
    "park",
    "dam",
    "quarry",
    "construction site",
)


@dataclass(frozen=True)
class Group:
    """Phrases that compete with each other: their probabilities sum to one.

    Args:
        template: the sentence that CLIP reads, with {} for the phrase.
        most: largest number of phrases that an image gets from this group.
    """

    template: str
    phrases: tuple[str, ...]
    most: int


# In the order of a caption: if a tokenizer is too short, the last phrases are dropped first.
GROUPS = (
    Group("a satellite photo of {}.", LAND_USE, 2),
    Group("a satellite photo in which the ground is mostly {}.", COLOURS, 1),
    Group("a satellite photo with {}.", TEXTURES, 1),
    Group("a satellite photo with {}.", ORIENTATIONS, 1),
    Group("a satellite photo with {}.", STRUCTURES, 2),
)
