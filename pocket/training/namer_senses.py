"""What WordNet's first sense with a picture gets wrong, or lacks, in the words of photographs.

Classes are named by the first noun of their synset in ImageNet's list, "noun#2" is the second class of that noun;
"@noun" is all that WordNet has below that noun's first sense with a class. No classes: the noun is left out.
"""

from __future__ import annotations

# People are no class of ImageNet, but what they wear and carry is.
PERSON = (
    *("@clothing", "@headgear", "ballplayer", "groom", "scuba diver", "cowboy boot", "clog", "loafer", "sandal"),
    *("running shoe", "sunglass", "sunglasses", "hair slide", "necklace", "cloak", "ski mask", "cuirass"),
    *("breastplate", "chain mail", "neck brace", "snorkel", "hair spray"),
)
SENSES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("person", "human", "man", "woman", "child", "boy", "girl", "people"), PERSON),
    "bicycle": ("bicycle-built-for-two", "mountain bike"),
    "bike": ("bicycle-built-for-two", "mountain bike"),
    "car": ("@car", "car wheel", "grille"),
    "motorcycle": ("moped", "motor scooter"),
    "motorbike": ("moped", "motor scooter"),
    "airplane": ("airliner", "warplane", "wing"),
    "aeroplane": ("airliner", "warplane", "wing"),
    "plane": ("airliner", "warplane", "wing"),
    "train": ("bullet train", "electric locomotive", "steam locomotive", "passenger car", "freight car", "streetcar"),
    "boat": ("@boat", "catamaran", "trimaran", "schooner", "container ship", "liner"),
    "sheep": ("ram", "bighorn"),
    "potted plant": ("pot",),
    "couch": ("studio couch",),
    "tv": ("television", "monitor", "screen", "entertainment center"),
    "stop sign": ("street sign",),
    "handbag": ("purse", "mailbag"),
    "skis": ("ski",),
    "tennis racket": ("racket",),
    "wine glass": ("goblet", "red wine"),
    "cup": ("cup", "coffee mug", "measuring cup"),
    "toilet": ("toilet seat",),
    "sink": ("washbasin",),
    "book": ("book jacket", "comic book", "bookshop"),
    "sports ball": (
        *("baseball", "basketball", "croquet ball", "golf ball", "ping-pong ball", "rugby ball", "soccer ball"),
        *("tennis ball", "volleyball"),
    ),
    "kite": ("parachute", "balloon"),
    "laptop": ("laptop", "notebook"),
    "oven": ("stove", "rotisserie", "dutch oven", "microwave"),
    "spoon": ("wooden spoon", "ladle"),
    "knife": ("cleaver", "letter opener"),
    "cow": ("ox", "water buffalo"),
}
