"""Packaging of slam-asr: an application with flat package names, installed into an environment of its own.

Packages are listed one by one, so that a stray folder beside them is never shipped; tests/test_house.py compares the
list with the tree. Versions here say what is needed; constraints.txt says what was tested.
"""

from setuptools import setup

SYNTH = ["espeakng-loader>=0.2.4"]  # GPL-3: an optional extra, never vendored
TENSORBOARD = ["tensorboard>=2.20"]
WANDB = ["wandb>=0.30"]
MLFLOW = ["mlflow-skinny>=3.16"]  # its client alone. Not in dev: deepspeed imports it where it is, 0.8 s a process
PARQUET = ["pyarrow>=20"]  # to import Hugging Face's Parquet files
LORA = ["peft>=0.21"]  # LoRA layers of the LLM, saved under names that other tools can load
GGUF = ["gguf>=0.19", "accelerate>=1.15"]  # both are needed by transformers' own reader of GGUF files
QUANT = ["bitsandbytes>=0.50"]  # frozen LLM weights quantised to 4 or 8 bits
VAD = ["silero-vad>=6.2"]  # weights of the Silero voice activity detector; the package itself is never imported
SERVE = ["fastapi>=0.130", "uvicorn>=0.40", "python-multipart>=0.0.20"]  # the HTTP server
S3 = ["s3fs>=2026.1"]  # fsspec's backend for s3://; gs:// wants gcsfs
# What tests/ hold ours against: a real S3 server, Hugging Face's own reader, invented input, a real browser.
AGAINST = ["moto[s3]>=5.1", "flask>=3.1", "flask-cors>=6.0", "datasets>=5.0", "hypothesis>=6.150", "playwright>=1.60"]
AGAINST += [*PARQUET, *S3]
# What bench/ measures against, and nothing else uses; lhotse imports urllib3 without asking for it.
BENCH = ["lhotse>=1.33", "urllib3>=2.0"]

setup(
    name="slam-asr",
    version="0.1.0",
    description="Train the adapter between a frozen speech encoder and a frozen LLM (SLAM-ASR, arXiv 2402.08846)",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        "data_prep",
        "data_prep.audio",
        "data_prep.build",
        "data_prep.exporters",
        "data_prep.features",
        "data_prep.importers",
        "data_prep.importers.parsing",
        "data_prep.importers.toolkits",
        "data_prep.inspect",
        "data_prep.inspect.audit",
        "data_prep.recordings",
        "data_prep.remote",
        "data_prep.rework",
        "data_prep.shards",
        "data_prep.synth",
        "decode",
        "decode.export",
        "decode.export.hugging_face",
        "decode.importing",
        "decode.recordings",
        "decode.report",
        "decode.scoring",
        "decode.serving",
        "decode.serving.page",
        "decode.vllm",
        "launch",
        "launch.deepspeed",
        "launch.doctor",
        "launch.fetch",
        "launch.monitoring",
        "launch.plan",
        "launch.prep",
        "launch.recipes",
        "launch.run",
        "launch.scoring",
        "launch.serving",
        "launch.slurm",
        "launch.transcribing",
        "model",
        "model.adapters",
        "model.encoders",
        "model.llm",
        "recipes",
        "recipes.real_pair",
        "recipes.stand_in",
        "slam_asr",
        "train",
        "train.data",
        "train.dist",
        "train.engine",
        "train.liveness",
        "train.recipe",
        "train.report",
    ],
    package_data={
        "data_prep": ["*.json"],
        "decode.report": ["*.html", "*.css"],
        "decode.serving.page": ["*.html", "*.css", "*.js", "*.svg"],
        "data_prep.synth": ["*.json"],
        "launch.deepspeed": ["*.example"],
        "launch.monitoring": ["*.json", "*.yml"],
        "launch.slurm": ["*.sbatch"],
    },
    install_requires=[
        "torch>=2.11",
        "torchaudio>=2.11",
        "deepspeed>=0.19.8",
        "transformers>=5.17",
        "tokenizers>=0.23",
        "httpx>=0.28",  # comes with transformers' huggingface_hub: its errors, and requests to a vLLM server
        "safetensors>=0.8",
        "webdataset>=1.0.2",
        "soundfile>=0.14",
        "jiwer>=4.0",
        "numpy>=2.0",
        "pyyaml>=6.0",
        "pydantic>=2.12",  # comes with deepspeed: checks recipes and DeepSpeed JSONs, makes the editors' JSON schema
        "prometheus-client>=0.26",
        "isal>=1.7",  # CRC-32 at over ten times zlib's speed: reading cached features is little else
        "fsspec>=2026.1",  # comes with torch: corpora and shards at addresses
        'miniaudio>=1.70; platform_machine == "x86_64"',  # dr_flac: reads our shards at 0.6 of libFLAC's cost
        "tqdm>=4.67",
        "rich>=14.0",  # tables
        "jinja2>=3.1",  # the HTML report, with automatic escaping; torch needs it too
    ],
    extras_require={
        "synth": SYNTH,
        "tensorboard": TENSORBOARD,
        "wandb": WANDB,
        "mlflow": MLFLOW,
        "parquet": PARQUET,
        "lora": LORA,
        "gguf": GGUF,
        "quant": QUANT,
        "s3": S3,
        "vad": VAD,
        "serve": SERVE,
        "bench": [*BENCH, *SYNTH],
        "dev": [
            *SERVE,
            "openai>=3.0",  # the client that most people have: tests/ and bench/ call the server with it
            "pytest>=9.0",
            "pytest-xdist>=3.8",  # two tests at a time: many of them wait
            "ruff>=0.17",
            "pyright[nodejs]>=1.1.414",
            *TENSORBOARD,
            *WANDB,
            *LORA,
            *GGUF,
            *QUANT,
            *VAD,
            *SYNTH,
            *BENCH,
            *AGAINST,
        ],
    },
    entry_points={"console_scripts": ["slam-asr = launch.command:main"]},
)
