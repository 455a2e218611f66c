"""A corpus parted into train, dev, test ... by chance that stays the same when utterances are added."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.build.assign import chance, unique
from data_prep.build.build import BuildOptions, Totals, archives_of, build
from data_prep.build.workdir import remove_dataset, require_not_source
from data_prep.figures import counted
from data_prep.shards.files import UNFINISHED_NAME, read_document
from data_prep.shards.index import INDEX_NAME
from data_prep.text import warn_about
from data_prep.utterance import Utterance
from model.errors import UserError, require_known

NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
OTHER_SEEDS = 100  # tried, to name a better one
FAR_OFF = 0.5  # of the fraction asked for


def parse_fractions(given: str) -> dict[str, float]:
    """`train=0.9,dev=0.1`; UserError for what is not so, or does not add up to 1."""
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

    A hash of the seed and of the speaker (`by` speaker) or the key (hash) says which part it is, so nothing moves when
    others are added. `balanced` comes as near to the fractions as whole speakers allow, for corpora of few speakers;
    there utterances that are added may move others. UserError where a part stays empty, or by speaker an utterance
    names none.
    """
    require_known("split by", by, SPLIT_BY)
    parts: dict[str, list[Utterance]] = {name: [] for name in fractions}
    for utterance, part in zip(utterances, _parts_of(utterances, fractions, by, seed), strict=True):
        parts[part].append(utterance)
    empty = [name for name, part in parts.items() if not part]
    if empty:
        raise UserError(
            f"split {empty[0]} gets none of {counted(len(utterances), 'utterance')}; "
            f"{advice(utterances, fractions, by, seed)}"
        )
    return parts


def build_parts(
    utterances: Iterable[Utterance], out: Path, options: BuildOptions, fractions: Mapping[str, float], by: str
) -> dict[str, Totals]:
    """Builds `out`/NAME for each part; `max_bad` is of the whole corpus. UserError as `build` and `split`, and where
    `out` holds a part of another split, which `overwrite` removes in the end.
    """
    corpus = unique(utterances)
    warn_about((utterance.text for utterance in corpus), options.limits.normalise)
    parts = split(corpus, fractions, by, options.seed)
    if (out / INDEX_NAME).exists():
        raise UserError(f"{out} is itself a dataset directory; give another for the parts to lie in")
    former = _parts_of_another_split(out, fractions)
    archives = archives_of(corpus)
    for folder in (*(out / name for name in fractions), *former):
        require_not_source(archives, folder)
    if former and not options.overwrite:
        raise UserError(
            f"{out} holds {former[0].name}, a part of another split, which may share utterances with these; give "
            "another directory, or --overwrite, which removes it"
        )
    if by == BALANCED:
        print(_balanced_told(corpus), file=sys.stderr)
    better = advice(corpus, fractions, by, options.seed)
    if better:
        print(f"warning: {_shares(parts, len(corpus))}; {better}", file=sys.stderr)
    rule = ",".join(f"{name}={fraction:g}" for name, fraction in fractions.items()) + f" by {by}"
    totals: dict[str, Totals] = {}
    for name, part in parts.items():
        before = sum(sum(done.bad.values()) for done in totals.values())
        own = replace(options, part=f"{name} of {rule}", corpus=len(corpus), bad_before=before)
        totals[name] = build(part, out / name, own)
    for folder in former:
        remove_dataset(folder)
        print(f"{folder} was a part of another split and is removed", file=sys.stderr)
    return totals


def advice(utterances: Sequence[Utterance], fractions: Mapping[str, float], by: str, seed: int) -> str:
    """What to do about parts that are far from their fractions, as few speakers make them; empty if none is."""
    if by == BALANCED:
        return ""  # no seed comes nearer
    weights = Counter(UNITS[by](utterance) for utterance in utterances)
    error = _error(weights, fractions, seed)
    if error <= FAR_OFF:
        return ""
    best = min(range(seed + 1, seed + 1 + OTHER_SEEDS), key=lambda other: _error(weights, fractions, other))
    if _error(weights, fractions, best) < min(error, 1.0):  # 1: a part stays empty
        return f"--seed {best} comes nearer to what was asked for"
    what = "speaker" if by == "speaker" else "utterance"
    return f"{counted(len(weights), f'{what} is', f'{what}s are')} too few for these fractions"


def _parts_of_another_split(out: Path, fractions: Mapping[str, float]) -> list[Path]:
    """Directories in `out` that a split with other parts made."""
    folders = [path.parent for name in (INDEX_NAME, UNFINISHED_NAME) for path in out.glob(f"*/{name}")]
    return [folder for folder in sorted(set(folders)) if folder.name not in fractions and _is_part(folder)]


def _is_part(folder: Path) -> bool:
    name = INDEX_NAME if (folder / INDEX_NAME).exists() else UNFINISHED_NAME
    try:
        options = read_document(folder / name).get("options")
    except UserError:  # whatever it is, it can be read as no part
        return False
    return isinstance(options, dict) and bool(options.get("part"))


def _shares(parts: Mapping[str, Sequence[Utterance]], total: int) -> str:
    return ", ".join(f"{name} has {len(part) / total:.1%}" for name, part in parts.items()) + " of the utterances"


def _speaker(utterance: Utterance) -> str:
    if utterance.part.startswith("fault:"):
        return utterance.speaker or utterance.key  # it stays out wherever it is
    if not utterance.speaker:
        raise UserError(f"utterance {utterance.key} names no speaker; --split-by hash goes by keys alone")
    return utterance.speaker


UNITS: dict[str, Callable[[Utterance], str]] = {"speaker": _speaker, "hash": lambda utterance: utterance.key}
"""What is never divided, where a hash alone decides."""
BALANCED = "balanced"
SPLIT_BY = (*UNITS, BALANCED)
LEAST_SPEAKERS = 3  # named in a corpus for `balanced` to divide it by speaker


def _parts_of(utterances: Sequence[Utterance], fractions: Mapping[str, float], by: str, seed: int) -> list[str]:
    """The part of each utterance."""
    if by != BALANCED:
        return [_part_of(UNITS[by](utterance), fractions, seed) for utterance in utterances]
    whole = _speakers(utterances) >= LEAST_SPEAKERS
    units = [f"speaker:{u.speaker}" if whole and u.speaker else f"key:{u.key}" for u in utterances]
    part_of = _balanced(Counter(units), fractions, seed)
    return [part_of[unit] for unit in units]


def _balanced(weights: Mapping[str, int], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """The part of each unit: the largest first, those of one size in the order of their hash, each into the part that
    lacks most. No part stays empty unless there are fewer units than parts."""
    total = sum(weights.values())
    lacking = {name: fraction * total for name, fraction in fractions.items()}
    empty, part_of = set(fractions), {}
    for unit in sorted(weights, key=lambda unit: (-weights[unit], chance(seed, f"split:{unit}"))):
        names = empty if len(empty) >= len(weights) - len(part_of) else fractions
        part = max((name for name in fractions if name in names), key=lacking.__getitem__)
        lacking[part] -= weights[unit]
        empty.discard(part)
        part_of[unit] = part
    return part_of


def _speakers(utterances: Iterable[Utterance]) -> int:
    return len({utterance.speaker for utterance in utterances} - {""})


def _balanced_told(utterances: Sequence[Utterance]) -> str:
    speakers = _speakers(utterances)
    if speakers >= LEAST_SPEAKERS:
        return f"split by speaker: none of {speakers:,} is in two parts"
    named = "no speaker is named" if not speakers else f"{counted(speakers, 'speaker')} named, {LEAST_SPEAKERS} needed"
    return f"split by utterance ({named}): the same voices are in all parts, which flatters scores"


def _part_of(unit: str, fractions: Mapping[str, float], seed: int) -> str:
    at, name = int.from_bytes(chance(seed, f"split:{unit}")[:8], "big") / 2**64, ""
    for name, fraction in fractions.items():
        if at < fraction:
            return name
        at -= fraction
    return name  # the fractions add up to a little less than 1


def _error(weights: Mapping[str, int], fractions: Mapping[str, float], seed: int) -> float:
    """Of the part that is furthest from its fraction: by how much, as a part of that."""
    found: Counter[str] = Counter()
    for unit, weight in weights.items():
        found[_part_of(unit, fractions, seed)] += weight
    total = sum(weights.values())
    return max(abs(found[name] / total - fraction) / fraction for name, fraction in fractions.items())
