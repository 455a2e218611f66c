"""A corpus divided into train, dev, test ... by a hash, so that utterances added later move no others."""

import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.build.assign import BuildOptions, key_hash, unique
from data_prep.build.build import build
from data_prep.build.workdir import Totals, remove_dataset, require_not_source
from data_prep.shards.index import INDEX_NAME
from data_prep.shards.opening import UNFINISHED_NAME, read_document
from data_prep.text import warn_about
from data_prep.utterance import Utterance
from model.errors import UserError, counted, require_known

NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
BALANCED = "balanced"
SPLIT_BY = ("speaker", "hash", BALANCED)
LEAST_SPEAKERS = 3  # named in a corpus for `balanced` to divide it by speaker


def parse_fractions(given: str) -> dict[str, float]:
    """`train=0.9,dev=0.1`; UserError for another form, and unless they add up to 1."""
    fractions: dict[str, float] = {}
    for item in given.split(","):
        name, _, number = item.strip().partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not NAME.fullmatch(name) or not 0 < value <= 1 or name in fractions:
            raise UserError(f"split {item.strip()!r} is not NAME=FRACTION, as in train=0.9,dev=0.05,test=0.05")
        fractions[name] = value
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise UserError(f"the fractions of {given} add up to {sum(fractions.values()):g}, they must to 1")
    return fractions


def split(
    utterances: Sequence[Utterance], fractions: Mapping[str, float], by: str, seed: int
) -> dict[str, list[Utterance]]:
    """The utterances of each part, in their order.

    By a hash of the seed and of the speaker (`by` speaker) or the key (hash). `balanced` comes as near to the fractions
    as whole speakers allow, for corpora of few speakers; there added utterances may move others. UserError where a
    part stays empty, or by speaker an utterance names none."""
    require_known("split by", by, SPLIT_BY)
    parts: dict[str, list[Utterance]] = {name: [] for name in fractions}
    if by == BALANCED:
        speakers = len({utterance.speaker for utterance in utterances} - {""})
        by_speaker = speakers >= LEAST_SPEAKERS
        named = f"{counted(speakers, 'speaker')} named, {LEAST_SPEAKERS} needed" if speakers else "no speaker is named"
        note = f"utterance ({named}): the same voices are in all parts, which flatters scores"
        note = f"speaker: none of {speakers:,} is in two parts" if by_speaker else note
        print(f"split by {note}", file=sys.stderr)
        units = [f"speaker:{u.speaker}" if by_speaker and u.speaker else f"key:{u.key}" for u in utterances]
        part_of = _balanced(Counter(units), fractions, seed)
    else:
        units = [_speaker(u) if by == "speaker" else u.key for u in utterances]
        part_of = {unit: _part_of(unit, fractions, seed) for unit in units}
    for utterance, unit in zip(utterances, units, strict=True):
        parts[part_of[unit]].append(utterance)
    for name, part in parts.items():
        if not part:
            advice = "give fewer parts" if by == BALANCED else "try another --seed or --split-by balanced"
            raise UserError(f"split {name} gets none of {counted(len(utterances), 'utterance')}; {advice}")
    return parts


def build_parts(
    utterances: Iterable[Utterance], out: Path, options: BuildOptions, fractions: Mapping[str, float], by: str
) -> dict[str, Totals]:
    """Builds `out`/NAME for each part; `max_bad` is of the whole corpus. UserError as `build` and `split`, and where
    `out` holds a part of another split, which `overwrite` removes in the end."""
    corpus = unique(utterances)
    warn_about((utterance.text for utterance in corpus), options.limits.normalise)
    parts = split(corpus, fractions, by, options.seed)
    if (out / INDEX_NAME).exists():
        raise UserError(f"{out} is itself a dataset directory; give another for the parts to lie in")
    former = _parts_of_another_split(out, fractions)
    require_not_source(corpus, *(out / name for name in fractions), *former)
    if former and not options.overwrite:
        raise UserError(
            f"{out} holds {former[0].name}, a part of another split, which may share utterances with these; give "
            "another directory, or --overwrite, which removes it"
        )
    rule = ",".join(f"{name}={fraction:g}" for name, fraction in fractions.items()) + f" by {by}"
    totals: dict[str, Totals] = {}
    for name, part in parts.items():
        bad = sum(sum(built.bad.values()) for built in totals.values())
        own = replace(options, part=f"{name} of {rule}", corpus=len(corpus), bad_before=bad)
        totals[name] = build(part, out / name, own)
    for folder in former:
        remove_dataset(folder)
        print(f"{folder} was a part of another split and is removed", file=sys.stderr)
    return totals


def _parts_of_another_split(out: Path, fractions: Mapping[str, float]) -> list[Path]:
    """Directories in `out` that a split with other parts made."""
    folders = []
    for path in (*out.glob(f"*/{INDEX_NAME}"), *out.glob(f"*/{UNFINISHED_NAME}")):
        try:
            options = read_document(path).get("options")
        except UserError:  # of another kind
            continue
        if path.parent.name not in fractions and isinstance(options, dict) and options.get("part"):
            folders.append(path.parent)
    return sorted(set(folders))


def _speaker(utterance: Utterance) -> str:
    if utterance.part.startswith("fault:"):
        return utterance.speaker or utterance.key  # it stays out wherever it is
    if not utterance.speaker:
        raise UserError(f"utterance {utterance.key} names no speaker; --split-by hash goes by keys alone")
    return utterance.speaker


def _balanced(weights: Mapping[str, int], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """The part of each unit: the largest first, those of one size in the order of their hash, each into the part that
    lacks most. No part stays empty unless there are fewer units than parts."""
    total = sum(weights.values())
    lacking = {name: fraction * total for name, fraction in fractions.items()}
    empty, part_of = set(fractions), {}
    for unit in sorted(weights, key=lambda unit: (-weights[unit], key_hash(seed, f"split:{unit}"))):
        names = empty if len(empty) >= len(weights) - len(part_of) else fractions
        part = max((name for name in fractions if name in names), key=lacking.__getitem__)
        lacking[part] -= weights[unit]
        empty.discard(part)
        part_of[unit] = part
    return part_of


def _part_of(unit: str, fractions: Mapping[str, float], seed: int) -> str:
    at, name = int.from_bytes(key_hash(seed, f"split:{unit}")[:8], "big") / 2**64, ""
    for name, fraction in fractions.items():
        if at < fraction:
            return name
        at -= fraction
    return name  # the fractions add up to a little less than 1
