"""The stages of a request and the commands of each, which are known once the stages before it are done."""

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.figures import in_units
from data_prep.paths import free_bytes
from data_prep.shards.index import INDEX_NAME
from data_prep.shards.opening import read_index
from data_prep.utterance import read_rows
from decode.scoring import SCORE
from launch import stages as commands
from launch.deepspeed.local import visible_gpus
from launch.run.request import RUN_JSON, Request, config_of, read_run_json
from launch.scoring.rows import FILES
from model.errors import UserError
from model.sample_rate import SAMPLE_RATE

LEAST_TO_DIVIDE = 10  # utterances: of fewer no part is set apart to evaluate on
MANY = 10_000  # utterances, of which a fiftieth is enough to evaluate on
MOST_CACHED_BYTES = 100e9
MOST_CACHED_SHARE = 0.5  # of what is free on the disk
BYTES_A_VALUE = 2  # float16, what `prep features` writes by default


@dataclass(frozen=True)
class Command:
    """One command of a stage."""

    words: tuple[str, ...]
    """As typed."""
    done: str = ""
    """Why it need not run: its output is there; empty where it is to run."""
    replaces: tuple[Path, ...] = ()
    """Files of an earlier checkpoint, removed before it runs."""

    def __str__(self) -> str:
        return shlex.join(self.words) + (f"  # {self.done}" if self.done else "")


@dataclass(frozen=True)
class Stage:
    name: str
    title: str
    commands: Callable[[Request], Iterator[Command]]


def stages(request: Request) -> list[Stage]:
    """The stages in order."""
    divided = "" if "dev" in request.corpora else ", a part of it set apart to evaluate on"
    written = [] if request.recipe else [("recipe", "written for these hours and this LLM", _recipe)]
    each = [
        ("import", "each corpus becomes a manifest; its first utterances are shown", _imports),
        ("build", f"recordings become shards{divided}", _builds),
        ("features", "the frozen encoder runs once, where that pays", _features),
        *written,
        ("train", "the adapter learns", _train),
        ("score", "word errors, counted over every utterance", _scores),
    ]
    return [Stage(name, f"=== {i} of {len(each)} {name}: {what}", f) for i, (name, what, f) in enumerate(each, 1)]


def _imports(request: Request) -> Iterator[Command]:
    for name, source in request.corpora.items():
        out = request.manifest(name)
        words = ["prep", "import", request.importer or "auto", source, "--out", str(out), *request.import_options]
        yield _slam_asr(words, out)


def _builds(request: Request) -> Iterator[Command]:
    names = list(request.corpora)
    if "dev" not in names:
        names.remove("train")
        manifest, out = request.manifest("train"), request.out / "shards"
        utterances = sum(1 for _ in read_rows(manifest)) if manifest.exists() else MANY
        if utterances < LEAST_TO_DIVIDE:
            raise UserError(
                f"{manifest} has {utterances} utterances, too few to set some apart to evaluate on "
                f"({LEAST_TO_DIVIDE}); give --dev CORPUS"
            )
        dev_share = 0.1 if utterances <= MANY else 0.02
        split = ["--split", f"train={1 - dev_share:g},dev={dev_share:g}", "--split-by", "balanced"]
        words = commands.build(str(manifest), str(out), [*split, *request.build_options])
        yield _slam_asr(words, *(out / name / INDEX_NAME for name in ("train", "dev")))
    for name in names:
        out = request.shards(name)
        words = commands.build(str(request.manifest(name)), str(out), request.build_options)
        yield _slam_asr(words, out / INDEX_NAME)


def _features(request: Request) -> Iterator[Command]:
    for name in ("train", "dev") if caches(request) else ():
        out = _data(request, name)
        words = commands.features(str(request.shards(name)), str(out), config_of(request).model)
        command = _slam_asr(words, out / INDEX_NAME)
        if 1 < request.ranks <= visible_gpus():
            several = ("torchrun", "--nproc_per_node", str(request.ranks), "-m", "launch", *words)
            command = Command(several, command.done)
        yield command


def _recipe(request: Request) -> Iterator[Command]:
    words = ["recipe", "new", "--train", str(_data(request, "train")), "--dev", str(_data(request, "dev"))]
    words += ["--encoder", request.encoder, "--llm", request.llm, "--run-dir", str(request.run)]
    words += ["--gpus", str(request.ranks)] if request.ranks > 1 else []
    words += _trust(request)
    if not request.shards("train").exists():
        words += ["--hours", "HOURS"]  # a dry run, before there is anything to count
    yield _slam_asr([*words, "--out", str(request.recipe_file)], request.recipe_file)


def _train(request: Request) -> Iterator[Command]:
    words = [str(request.recipe_file)]
    if request.recipe:  # a person's own may name others
        words += [f"model.encoder={request.encoder}", f"model.llm={request.llm}", f"run.dir={request.run}"]
        words += [f"data.{name}={_data(request, name)}" for name in ("train", "dev")]
    words += [*request.overrides, *(["--allow-changes"] if request.allow_changes else [])]
    if request.ranks == 1:
        yield Command(("python", "-m", "train", *words))
    else:
        yield Command(("slam-asr", "launch", "local", *words, "--ranks", str(request.ranks)))


def scored(request: Request) -> tuple[str, ...]:
    """Names of the corpora that are scored at the end."""
    return request.tests or ("dev",)


def _scores(request: Request) -> Iterator[Command]:
    for name in scored(request):
        manifest = request.manifest(name if name in request.corpora else "train")
        speakers = not manifest.exists() or any(row.get("speaker") for _, row in read_rows(manifest))
        by, shards, out = "speaker" if speakers else "", request.shards(name), request.out / "scores" / name
        words = commands.score(str(request.run), str(shards), str(out), config_of(request).model)
        words += [*(["--by", by] if by else []), *_trust(request), "--overwrite"]  # also of a decoding left unfinished
        done = f"{out} is of this checkpoint" if _is_scored(request.run, shards, out, by) else ""
        yield Command(("slam-asr", *words), done, tuple(out / name for name in FILES))


def _is_scored(run: Path, shards: Path, out: Path, by: str) -> bool:
    """Whether `out` holds the score of the checkpoint that scoring `run` would take, on these shards."""
    from model.weights import find_adapter, read_card

    try:
        score = json.loads((out / SCORE).read_text("utf-8"))
        wanted = (read_card(find_adapter(run)).digest, read_index(shards).digest(), [by] if by else [])
    except (OSError, ValueError):  # a UserError is a ValueError
        return False
    return (score.get("weights_sha256"), score.get("shards_digest"), list(score.get("by") or {})) == wanted


def shared(request: Request) -> Iterator[str]:
    """What the corpora to evaluate on share with the training data, a line each, once all are imported."""
    voices, recordings = set[str](), set[tuple[str, float]]()
    for name in ("train", *(name for name in request.corpora if name != "train")):
        rows = [row for _, row in read_rows(request.manifest(name))]
        theirs = {row["speaker"] for row in rows if row.get("speaker")}
        places = [(str(row["audio"]), float(row.get("start") or 0)) for row in rows]
        if name == "train":
            voices, recordings = theirs, set(places)
            continue
        same, known = sum(place in recordings for place in places), sorted(theirs & voices)
        if same:
            yield f"{name}: {same} of {len(rows)} recordings are trained on, too, so its WER says little; give others"
        elif known:
            names = ", ".join(known[:3]) + " ..." * (len(known) > 3)
            yield f"{name}: {len(known)} of {len(theirs)} speakers ({names}) are trained on, too, so its WER is too low"


def caches(request: Request) -> bool:
    """Whether the encoder's frames are cached: as decided at the first start, as asked, or where it pays."""
    if (request.out / RUN_JSON).exists() and (before := read_run_json(request.out).get("cached")) is not None:
        return before
    return request.features == "yes" or not why_not_cached(request)


def why_not_cached(request: Request) -> str:
    """The reason, for a person; empty where caching pays or is not known to be too much."""
    from model.encoders import random_encoder
    from model.skeleton import read_config

    if request.features == "no":
        return "--features no"
    config = config_of(request)
    if config.augment.needs_audio:
        return "augment changes recordings, so that an epoch's frames are no other's"
    if config.optim.epochs is not None and config.optim.epochs <= 1:
        return f"frames would be used in {config.optim.epochs:g} epochs only"
    if not (request.shards("train") / INDEX_NAME).exists():
        return ""
    m = config.model
    encoder_config = read_config("encoder", m.encoder, m.trust_remote_code)
    encoder = random_encoder(encoder_config, m.encoder_layer, m.encoder_window, trust_remote_code=m.trust_remote_code)
    seconds = sum(read_index(request.shards(name)).seconds for name in ("train", "dev"))
    size = int(seconds * encoder.out_len(100 * SAMPLE_RATE) / 100 * encoder.dim * BYTES_A_VALUE)
    free = free_bytes(request.out)
    if size <= min(MOST_CACHED_BYTES, MOST_CACHED_SHARE * free):
        return ""
    return f"they take {in_units(size)}, more than {MOST_CACHED_SHARE:g} of {in_units(free)} free, or 100 GB"


def _trust(request: Request) -> list[str]:
    return ["--trust-remote-code"] if config_of(request).model.trust_remote_code else []


def _data(request: Request, name: str) -> Path:
    """What the training reads: the shards, or their cached frames."""
    return request.out / "features" / name if caches(request) else request.shards(name)


def _slam_asr(words: Sequence[str], *made: Path) -> Command:
    """A command that need not run where all that it makes is there."""
    there = all(path.exists() for path in made)
    return Command(("slam-asr", *words), f"{made[0]} is there" if there else "")
