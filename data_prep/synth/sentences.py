"""Texts of synthetic speech: sentences from templates, and strings of random words.

The language is small on purpose (about 480 words), so that a model trained in minutes can learn it, and wide enough
that a sentence it has not seen is the normal case. Text is lowercase a-z, apostrophe and single spaces.

The hash of a text decides its split: one in 16 is held out. The same random generator gives the same texts anywhere.
"""

import hashlib
import random
import re

HELD_OUT_SHARE = 16  # one text in so many is held out
ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
MIN_RANDOM_WORDS, MAX_RANDOM_WORDS = 3, 10

_WORDS = {
    "name": "alice amy anna ben carol daniel david emma frank george grace hannah harry helen jack james jenny john "
    "julia kate laura lisa lucy maria martin mary michael nina oliver oscar paul peter rachel robert ruby sam sarah "
    "simon sophie steven susan thomas tina victor",
    "digit": "zero one two three four five six seven eight nine",
    "hour": "one two three four five six seven eight nine ten eleven twelve",
    "minutes": "five ten fifteen twenty thirty forty fifty",
    "tens": "twenty thirty forty fifty sixty seventy eighty ninety",
    "unit": "one two three four five six seven eight nine",
    "ordinal": "first second third fourth fifth sixth seventh eighth ninth tenth last next",
    "day": "monday tuesday wednesday thursday friday saturday sunday",
    "month": "january february march april may june july august september october november december",
    "season": "spring summer autumn winter",
    "part": "morning afternoon evening",
    "room": "kitchen bedroom bathroom garden garage office hallway basement attic library",
    "device": "lights heating television radio fan oven music printer camera alarm heater speaker",
    "animal": "dog cat horse rabbit bird fish mouse fox bear sheep cow duck lion tiger monkey frog goat wolf elephant",
    "colour": "red green blue yellow black white brown orange purple grey pink silver golden",
    "size": "small big little huge tiny large tall short",
    "mood": "happy sad angry tired hungry quiet clever brave lazy busy friendly nervous",
    "thing": "book box bag key chair table lamp phone bottle cup ball hat coat letter clock picture basket umbrella "
    "ticket blanket candle guitar ladder hammer pencil mirror",
    "food": "bread cheese apples soup rice butter chicken salad coffee tea milk honey pasta cake potatoes tomatoes "
    "carrots bananas sugar pepper chocolate",
    "place": "school station market museum airport hospital park bridge church bank river lake mountain forest beach "
    "harbour village castle theatre restaurant factory island",
    "city": "london paris berlin madrid rome boston chicago dublin tokyo vienna sydney amsterdam",
    "weather": "sunny cloudy rainy windy cold warm foggy dry",
    "vehicle": "car bus train bicycle boat lorry taxi plane tractor",
    "person": "mother father brother sister teacher doctor farmer baker driver neighbour captain soldier painter king "
    "queen nurse",
    "job": "singer pilot dentist lawyer gardener waiter engineer",
    "went": "walked ran drove jumped climbed travelled hurried returned",
    "did": "found lost bought sold opened carried dropped painted cleaned watched followed wanted borrowed",
    "do": "find bring open carry paint clean watch follow move check repair wash hide",
    "adverb": "slowly quickly carefully quietly suddenly finally softly early late",
    "where": "under behind beside near above inside",
    "direction": "left right north south east west",
    "unit_of": "metres miles kilos litres pounds boxes pages steps",
    "song": "jazz rock classical country folk dance",
    "sport": "football tennis chess hockey golf cricket",
    "subject": "history science music english maths geography",
}

TEMPLATES = """
turn on the {device} in the {room}
turn off the {device} in the {room} please
switch the {colour} {device} to {number} percent
set the {device} in the {room} to {number} degrees
set an alarm for {hour} {minutes} tomorrow {part}
wake me up at {hour} {minutes} on {day}
set a timer for {number} minutes
remind me to {do} the {thing} on {day} {part}
please {do} the {colour} {thing} {where} the {thing}
call {name} at {digits}
dial {digits}
the number is {digits}
my code is {digits} and yours is {digits}
send a message to {name} saying i am at the {place}
ask {name} to {do} the {thing} at {hour} o'clock
play some {song} music in the {room}
add {food} and {food} to the shopping list
what is the weather like in {city} on {day}
it will be {weather} in {city} this {part}
it was a {weather} {part} in {month}
how far is it from {city} to {city}
the {vehicle} to {city} leaves at {hour} {minutes}
the {ordinal} {vehicle} leaves from platform {number}
take the {ordinal} {direction} after the {place}
go {direction} for {number} {unit_of} then turn {direction}
{name} lives at number {number} near the {place}
{name} was born on the {ordinal} of {month}
{name} and {name} went to the {place} on {day}
{name} {did} the {colour} {thing} {where} the {thing}
{name} {went} to the {place} with a {size} {animal}
{name} wants to be a {job} like her {person}
{name} has {number} {animal_many} and a {colour} {vehicle}
{name} plays {sport} every {day} {part}
{name} likes {food} but {name} likes {food}
{name} is {mood} because the {animal} {did} the {thing}
the {animal} is {mood} and the {animal} is {mood}
the {size} {animal} sat {where} the {colour} {thing}
the {person} {adverb} {did} the {size} {thing}
the {person} {did} {number} {unit_of} of {food}
the {person} and the {job} {went} to {city} in {season}
the {mood} {person} {went} {adverb} to the {place}
the {colour} {vehicle} stopped {where} the {place}
once upon a time a {mood} {person} lived {where} a {place}
one day the {animal} said to the {animal} i am {mood}
in the {part} the {animal} and the {animal} {went} to the {place}
then the {person} {did} a {colour} {thing} in the {place}
at {hour} o'clock the {person} {went} {adverb} to the {room}
every {season} the {person} {did} {food} at the {place}
there was a {colour} {thing} {where} the {thing} in the {room}
there are {number} {unit_of} between the {place} and the {place}
i would like {food} with {food} please
i have {number} {thing_many} and you have {number}
i can't {do} the {thing} in the {room}
i don't know where {name} {did} the {thing}
i think the {subject} lesson is on {day} at {hour}
we have {subject} on {day} and {subject} on {day}
we'll meet {name} {where} the {place} at {hour} {minutes}
did {name} {do} the {size} {thing} in {month}
can you {do} my {thing} before {day}
could you tell the {job} that {name} is {mood}
where is the {colour} {thing} that {name} {did}
why is the {person} so {mood} this {part}
they sold {number} {thing_many} in {month} and {number} in {month}
it's {minutes} past {hour} in {city}
""".strip().splitlines()


def sentence(rng: random.Random) -> str:
    """One sentence from a template drawn at random."""
    return re.sub(r"\{(\w+)\}", lambda slot: _fill(slot[1], rng), rng.choice(TEMPLATES))


def word_string(rng: random.Random, shortest: int = MIN_RANDOM_WORDS, longest: int = MAX_RANDOM_WORDS) -> str:
    """Words in random order, which cannot be guessed from each other."""
    return " ".join(rng.choice(VOCABULARY) for _ in range(rng.randint(shortest, longest)))


def is_held_out(text: str) -> bool:
    """Whether no model may train on this text: decided by the text alone (its SHA-256)."""
    return hashlib.sha256(text.encode("ascii")).digest()[0] % HELD_OUT_SHARE == 0


def draw(rng: random.Random, held_out: bool, random_share: float = 0.0) -> str:
    """A text of one side of the split; `random_share` of them are word strings instead of sentences."""
    while True:
        text = word_string(rng) if rng.random() < random_share else sentence(rng)
        if is_held_out(text) == held_out:
            return text


def _fill(slot: str, rng: random.Random) -> str:
    if slot == "digits":
        return " ".join(rng.choice(_LISTS["digit"]) for _ in range(rng.randint(3, 7)))
    if slot == "number":
        kind = rng.random()
        if kind < 0.7:
            return rng.choice(_LISTS["hour" if kind < 0.4 else "tens"])
        return f"{rng.choice(_LISTS['tens'])} {rng.choice(_LISTS['unit'])}"
    if slot.endswith("_many"):
        word = rng.choice(_LISTS[slot.removesuffix("_many")])
        return _IRREGULAR.get(word) or (word + "es" if word.endswith("ch") else word + "s")
    return rng.choice(_LISTS[slot])


_IRREGULAR = {"mouse": "mice", "fish": "fish", "sheep": "sheep", "wolf": "wolves", "box": "boxes", "fox": "foxes"}
_LISTS = {slot: tuple(words.split()) for slot, words in _WORDS.items()}
VOCABULARY = tuple(sorted({*" ".join(_WORDS.values()).split(), *re.sub(r"\{\w+\}", "", " ".join(TEMPLATES)).split()}))
"""Every word of the lists and templates, without plurals."""
