"""Who speaks: fixed lists of espeak-ng voices, drawn up before anything was trained and never chosen by results.

A voice is an accent and a variant, "en-us+m3". Variants, not voices, are divided among the splits, so a test voice is
new in every accent, and look-alikes (edward and edward2, the three stephs) stay on one side. "Hard" voices whisper,
croak or are robots; when the `flite` program is installed, its voice joins them, a synthesiser of another kind.
"""

import shutil

ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
"""espeak's names; plain "en" is British."""

_VARIANTS = {
    "train": "f1 f2 f5 m1 m2 m3 m7 m8 klatt klatt2 klatt5 klatt6 Alex Andrea Annie Denis Diogo Gene Gene2 Henrique "
    "Hugo Lee Mario Michael Mike mike2 Nguyen Reed RicishayMax RicishayMax2 adam antonio anika announcer aunty "
    "benjamin boris caleb ed fast grandpa gustave ian iven iven2 john kaukovalta marcelo max michel miguel "
    "pablo paul pedro quincy robert sandro victor zac",
    "dev": "f3 m5 klatt3 Andy linda travis",
    "test": "f4 m4 m6 klatt4 Alicia Jacky belinda david edward norbert rob shelby steph",
    "hard": "whisper whisperf croak grandma UniRobot anikaRobot Demonic Tweaky robosoft robosoft5",
}
_ACCENTS_OF = {"train": ACCENTS, "dev": ("en", "en-us"), "test": ("en", "en-us"), "hard": ("en-us",)}

FLITE = "flite"
"""The voice that is another program, not espeak-ng's."""

VOICES = {
    split: tuple(f"{accent}+{variant}" for variant in _VARIANTS[split].split() for accent in _ACCENTS_OF[split])
    for split in _VARIANTS
}
"""The voices of each split: "train", "dev", "test", "hard"."""


def installed(split: str) -> tuple[str, ...]:
    """The voices of `split` on this machine: `VOICES[split]`, and flite among the hard ones where it is installed."""
    return VOICES[split] + ((FLITE,) if split == "hard" and shutil.which(FLITE) else ())
