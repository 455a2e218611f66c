from pathlib import Path

import pytest
from pydantic import ValidationError

from model.errors import UserError
from train.recipe.config import Config, load_config
from train.recipe.identity import config_digest, result_fields, to_yaml

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


def test_a_short_recipe_has_the_papers_defaults(recipe):
    config = load_config(recipe)
    assert (config.optim.lr, config.optim.warmup_steps, config.optim.schedule) == (1e-4, "auto", "constant")
    assert (config.batch.tokens, config.batch.micro_batches) == ("auto", "auto")
    assert (config.save.every_steps, config.eval.every_steps) == ("auto", "auto")
    assert (config.model.adapter.stack, config.model.adapter.hidden, config.model.encoder_layer) == (5, 2048, None)
    assert config.model.prompt == "USER: <speech> Transcribe speech to text. ASSISTANT:"
    assert (config.data.train, config.data.dev, config.data_seed) == (("data/train",), (), 0)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_loads_and_comes_back_from_its_resolved_form(path, tmp_path):
    config = load_config(path)
    (tmp_path / "resolved.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "resolved.yaml") == config


def test_the_paper_is_reproduced_by_its_recipe():
    (path,) = [path for path in RECIPES if path.name == "librispeech_vicuna.yaml"]
    config = load_config(path)
    assert (config.model.encoder, config.model.llm) == ("facebook/hubert-xlarge-ls960-ft", "lmsys/vicuna-7b-v1.5")
    assert (config.optim.lr, config.optim.warmup_steps, config.optim.schedule) == (1e-4, 1000, "constant")


@pytest.mark.parametrize(
    "text", ["null", "no", "1e-4", "12:00:00", "ÄÖ 語 🎤", 'a "b": #c\t', " x ", "two\nlines\n", "!!x"]
)
def test_texts_of_every_kind_survive_the_resolved_recipe(text, recipe):
    config = load_config(recipe)
    config = config.changed("run", dir=text).changed("data", dev=(text, text))
    recipe.write_text(to_yaml(config))
    assert load_config(recipe) == config


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("optim.lr=1e-4", lambda c: c.optim.lr, 1e-4),
        ("optim.lr=2E-3", lambda c: c.optim.lr, 2e-3),
        ("optim.lr=.5", lambda c: c.optim.lr, 0.5),
        ("optim.clip=1", lambda c: c.optim.clip, 1.0),
        ("run.dir=no", lambda c: c.run.dir, "no"),
        ("run.dir=12:00:00", lambda c: c.run.dir, "12:00:00"),
        ("run.dir=010", lambda c: c.run.dir, "010"),
        ("run.dir=a=b", lambda c: c.run.dir, "a=b"),
        ("model.prompt=USER: <speech> #1", lambda c: c.model.prompt, "USER: <speech> #1"),
        ("model.adapter.stack=4", lambda c: c.model.adapter.stack, 4),
        ("data.train=[a, 12:30, 'c d']", lambda c: c.data.train, ("a", "12:30", "c d")),
        ("data.train=a b", lambda c: c.data.train, ("a b",)),
        ("data.max_train_samples=null", lambda c: c.data.max_train_samples, None),
        ("optim.betas=[0.8, 0.9]", lambda c: c.optim.betas, (0.8, 0.9)),
        ("optim.warmup_ratio=0.1", lambda c: (c.optim.warmup_steps, c.optim.warmup_ratio), (None, 0.1)),
        ("eval.wer=false", lambda c: c.eval.wer, False),
        ("data.seed=7", lambda c: c.data_seed, 7),
        ("run.seed=7", lambda c: c.data_seed, 7),
    ],
)
def test_an_override_is_read_by_its_fields_own_rules(override, read, value, recipe):
    assert read(load_config(recipe, [override])) == value


def test_of_a_repeated_override_the_last_counts(recipe):
    assert load_config(recipe, ["run.seed=1", "run.seed=2"]).run.seed == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optim.warmup_step=5", "unknown key optim.warmup_step, did you mean warmup_steps?"),
        ("optm.lr=1", "unknown key optm, did you mean optim?"),
        ("lr=1", "unknown key lr, did you mean optim.lr or lora.lr?"),
        ("lora.targets=[auto, k_proj]", "lora.targets has auto beside other names; give it alone, or names only"),
        ("lora.rank=-1", "lora.rank is -1, expected a number of at least 0"),
        ("model.stack=1", "unknown key model.stack, did you mean model.adapter.stack?"),
        ("seed=1", "unknown key seed, did you mean data.seed or run.seed?"),
        ("log.zzz=1", "unknown key log.zzz; known are every_steps, tensorboard"),
        ("run.dir.x=1", "unknown key run.dir.x: dir is a value at "),
        ("optim.lr", "optim.lr is no override; write section.key=value"),
        ("--optim.lr=1", "--optim.lr=1 is no override"),
        ("optim..lr=1", "optim..lr=1 is no override"),
        ("batch.tokens=010", "batch.tokens is 010, expected a whole number or auto; write it without leading zeros"),
        ("batch.tokens=12:30", "batch.tokens is 12:30, expected a whole number"),
        ("batch.tokens=1e3", "batch.tokens is 1e3, expected a whole number or auto; write 1000"),
        ("batch.tokens=4_000", "batch.tokens is 4_000, expected a whole number or auto; write 4000"),
        ("batch.tokens=0", "batch.tokens is 0, expected a number of at least 1 or auto"),
        ("batch.tokens=" + "9" * 5000, "999..., expected a whole number"),
        ("batch.tokens=", "batch.tokens is empty, expected a whole number"),
        ("optim.lr=-1e-4", "optim.lr is -1e-4, expected a number above 0"),
        ("optim.lr=nan", "optim.lr is nan, expected a number"),
        ("optim.lr=1e999", "optim.lr is 1e999, expected a finite number"),
        ("optim.betas=[0.9]", "optim.betas is a list of 1, expected more"),
        ("optim.betas=[0.9, 1.0]", "optim.betas[1] is 1.0, expected a number below 1"),
        ("optim.max_steps=null", "neither optim.max_steps nor optim.epochs is given"),
        ("eval.wer=no", "eval.wer is no, expected true or false"),
        ("eval.wer=True", "eval.wer is True, expected true or false"),
        ("save.best=lose", "save.best is lose, expected auto, loss, accuracy, wer or none, did you mean loss?"),
        ("save.best=loss", "save.best is loss, but data.dev is empty; give data.dev"),
        ("data.train=[]", "data.train is a list of 0, expected at least one"),
        ("data.train=[a, '']", "data.train[1] is '', expected "),
        ("run.dir=$NO_SUCH_PLACE/x", "run.dir is $NO_SUCH_PLACE/x: $NO_SUCH_PLACE is not set"),
        ("data.dev=[a, '${NO_SUCH_PLACE}/x']", "data.dev[1] is '${NO_SUCH_PLACE}/x': $NO_SUCH_PLACE is not set"),
        ("run.dir=~nobody-of-that-name/x", "~nobody-of-that-name is no user's home here"),
        ("data.train=[a", "the [ is not closed"),
        ("data.dev=[[a]]", "data.dev[0] is a list of 1, expected text"),
        ("data.min_seconds=40", "data.min_seconds 40.0 is not below data.max_seconds 30.0"),
        ("data.max_train_samples=0", "data.max_train_samples is 0, expected a number of at least 1"),
        ("model.prompt=USER:", "model.prompt is USER:, expected text with <speech> in it once"),
        ("model.dtype=bf16", "expected auto, float32, bfloat16 or float16"),
        ("model.adapter=concat", "model.adapter is concat, expected a section"),
        ("watch=false", "watch is false, expected a section"),
        ("save=[]", "save is"),
        ("model.adapter=0", "model.adapter is 0, expected a section"),
        ("model.adapter.type=concatt", "adapter type 'concatt' is not known, did you mean 'concat'?"),
        ("model.adapter.queries=2", "model.adapter.queries is 2, but an adapter of type concat has no queries"),
        ("run.dir=", "run.dir is empty, expected text"),
    ],
)
def test_a_wrong_override_is_one_line_with_key_value_and_what_to_write(line, message, recipe):
    with pytest.raises(UserError) as error:
        load_config(recipe, [line])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_warm_up_is_given_in_one_way(recipe):
    with pytest.raises(UserError, match=r"optim\.warmup_steps 10 and optim\.warmup_ratio 0\.1 are both given"):
        load_config(recipe, ["optim.warmup_steps=10", "optim.warmup_ratio=0.1"])


LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  warmup_step: 5\n", ":2: unknown key optim.warmup_step, did you mean warmup_steps?"),
        ("optim:\n  lr: 1e-4\n  lr: 2e-4\n", ":3: lr is given twice in its section; keep one"),
        ("optim: {lr: 1}\noptim: {lr: 2}\n", ":2: optim is given twice"),
        ('batch:\n  tokens: "4000"\n', ":2: batch.tokens is '4000', expected a whole number or auto; take the quotes"),
        ("eval:\n  wer: yes\n", ":2: eval.wer is yes, expected true or false"),
        ("optim:\n\tlr: 1e-4\n", "; indent with spaces, not tabs"),
        ("a: &x [1]\nb: *x\n", ":1: anchors and aliases"),
        ("a0: &a0 [x]\n" + LAUGHS, ":1: anchors and aliases"),
        ("run: !!python/object/apply:os.system [id]\n", ":1: the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("run: {dir: !!str x}\n", ":1: the tag tag:yaml.org,2002:str is not taken"),
        ("<<: {a: 1}\n", ":1: unknown key <<"),
        ("? [a]\n: b\n", ":1: a key is a plain word"),
        ("run: {dir: {a}}\n", "run.dir is a section of 1, expected text"),
        ("run: {dir: <speech>: x}\n", ":1: "),
        ("[" * 5000, ":1: nested more than 8 deep"),
        ("a: 1\n---\nb: 2\n", ":2: but found another document"),
        ("- a\n", ":1: the recipe is a list of 1, expected a section"),
        ("just words\n", ":1: the recipe is just words, expected a section"),
        ("", ": model.encoder is missing"),
        ("# nothing\n", ": model.encoder is missing"),
        ("model:\n  encoder: x\n", ":1: model.llm is missing"),
        ("a: \x00\n", ": not a YAML text"),
        ("#" * 300_000, ": larger than 256 KiB"),
    ],
)
def test_a_wrong_recipe_is_one_line_with_the_file_and_what_to_write(text, message, recipe):
    recipe.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(recipe)
    assert str(error.value).startswith(str(recipe))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin").write_bytes(b"run: {dir: \xe4}")
    for path, message in (
        ("none.yaml", "there is no .*none.yaml"),
        ("", "Is a directory"),
        ("latin", "is not UTF-8 text"),
    ):
        with pytest.raises(UserError, match=message):
            load_config(tmp_path / path)


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("run.dir=elsewhere", True),
        ("run.collective_timeout_seconds=900", True),
        ("log.every_steps=1", True),
        ("save.every_steps=1", True),
        ("eval.every_steps=1", True),
        ("data.reader_threads=9", True),
        ("data.train=/scratch/train", True),
        ("model.llm=/scratch/llm", True),
        ("data.seed=0", True),
        ("optim.max_steps=200", True),
        ("run.seed=1", False),
        ("data.seed=1", False),
        ("data.max_train_samples=9", False),
        ("optim.lr=2e-4", False),
        ("batch.micro_batches=4", False),
        ("model.encoder_layer=3", False),
        ("model.adapter.dropout=0.1", False),
        ("model.adapter.match_norm=true", False),
        ("model.prompt=<speech>", False),
    ],
)
def test_the_digest_changes_only_with_what_the_weights_depend_on(override, same, recipe):
    assert (config_digest(load_config(recipe)) == config_digest(load_config(recipe, [override]))) == same


def test_the_end_of_a_run_counts_only_where_the_learning_rate_depends_on_it(recipe):
    def differing(schedule: str) -> set[str]:
        fields = [
            result_fields(load_config(recipe, [f"optim.schedule={schedule}", f"optim.max_steps={steps}"]))
            for steps in (100, 200)
        ]
        return {key for key in fields[0] if fields[0][key] != fields[1][key]}

    assert differing("constant") == set()
    assert differing("linear") == {"optim.max_steps"}


def test_a_config_is_frozen(recipe):
    config: Config = load_config(recipe)
    with pytest.raises(ValidationError, match="frozen"):
        config.optim.lr = 1.0  # type: ignore[misc]


GOOD = """\
model:
  encoder: models/hubert
  llm: models/llama
  prompt: "USER: <speech> ASSISTANT:"
data:
  train: data/train
optim:
  lr: 1e-4
  max_steps: 100
run: {dir: runs/one}
"""


@pytest.mark.parametrize(
    ("right", "wrong", "line", "values"),
    [
        ('prompt: "USER: <speech> ASSISTANT:"', "prompt: USER: <speech> ASSISTANT:", 4, ["prompt: USER", "quotes"]),
        ('prompt: "USER: <speech> ASSISTANT:"', 'prompt: a "x": <speech>', 4, ['prompt: a "x": <speech>', "quotes"]),
        ("{dir: runs/one}", "{dir: runs: one}", 10, ["run: {dir: runs: one}", "quotes"]),
        ("lr: 1e-4", "lr:1e-4", 8, ["no space after the colon of lr; write lr: 1e-4"]),
        ("max_steps: 100", "max_steps:100", 9, ["write max_steps: 100"]),
        ("  lr: 1e-4\n  max_steps: 100", "  max_steps:100", 7, ["optim is max_steps:100", "write max_steps: 100"]),
        ("run: {", "run:{", 10, ["write run: {"]),
        ("{dir: r", "{dir:r", 10, ["write dir: runs/one"]),
        ("  max_steps", "   max_steps", 9, ["max_steps: 100", "indent"]),
        ("  max_steps", " max_steps", 9, ["max_steps: 100", "indent"]),
        ("  llm", "  # of Meta\n\n    llm", 5, ["llm: models/llama", "indent"]),
        ("encoder: models", "encoder: 'models", 2, ["encoder: 'models/hubert", "the quote is not closed"]),
        ("encoder: models", 'encoder: "models', 2, ['encoder: "models/hubert', "the quote is not closed"]),
        ("  lr", "\tlr", 8, ["lr: 1e-4", "tab"]),
        ("lr: ", "lr:\t", 8, ["tab"]),
        ("{dir: runs/one}", "{dir: runs/one", 10, ["{dir: runs/one", "the { is not closed; close it with }"]),
        ("run: {dir: runs/one}", "run: {dir: runs/one\nlog: {}", 10, ["run: {dir: runs/one", "the { is not closed"]),
        ("train: data/train", "train: [data/train", 6, ["the [ is not closed; close it with ]"]),
        ("dir: runs", "dir: @runs", 10, ["dir: @runs", "quotes"]),
        ("encoder: models", "encoder: 'models' ", 2, ["encoder: 'models' /hubert", "after a closing quote"]),
    ],
)
def test_a_slip_is_named_with_its_line_and_how_to_write_it(right, wrong, line, values, recipe):
    recipe.write_text(GOOD)
    load_config(recipe)
    recipe.write_text(GOOD.replace(right, wrong, 1))
    with pytest.raises(UserError) as error:
        load_config(recipe)
    assert str(error.value).startswith(f"{recipe}:{line}: ") and all(value in str(error.value) for value in values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lines", ["a\x0bb: 'x\n", "{\x85\x85{", "\u2028'", "? |", "a: >\n  x: @", "[" * 7 + ":"])
def test_whatever_the_text_is_it_is_one_line(lines, recipe):
    recipe.write_text(lines)
    with pytest.raises(UserError) as error:
        load_config(recipe)
    assert "\n" not in str(error.value)
