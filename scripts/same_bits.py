"""Train the default run's first steps in many surroundings and compare the SHA-256 of the parameters.

- instructions: kernels compiled for other processors, with and without fused multiply-add and AVX-512, and NumPy and
  the C library without their vector code
- numpy: two versions of NumPy, each in an environment of its own
- blas: OpenBLAS's code for other processors
- work: numbers of workers and sizes of shards
- aarch64: another architecture, emulated by QEMU with Debian's packages (needs apt-get, takes minutes)

Without a name, it tries all but aarch64.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parallel_lenet import Coordinator
from parallel_lenet.cli import _published
from parallel_lenet.cli._console import Console
from parallel_lenet.cli._options import TrainOptions
from parallel_lenet.datasets import load

ROOT = Path(__file__).resolve().parents[1]
SEED = TrainOptions().seed
BATCH_SIZE = TrainOptions().batch_size

# LLVM's name of a processor, and NumPy's names of the features that this one must have to execute its code.
PROCESSORS = {
    "x86-64": (),
    "nehalem": ("SSE42",),
    "haswell": ("AVX2", "FMA3", "BMI2", "MOVBE"),
    "skylake-avx512": ("AVX512_SKX",),
    "icelake-server": ("AVX512_ICL", "GFNI", "VAES"),
    "znver4": ("AVX512_ICL", "AVX512BF16", "GFNI", "VAES"),
}
NUMPY = ("numpy==2.2.*", "numpy")  # The second entry is the newest that numba allows.
BLAS = ("Nehalem", "Haswell", "Zen", "SkylakeX")
WORK = [
    ("--workers", "1"),
    ("--workers", "2"),
    ("--workers", "3", "--shard-size", "8"),
    ("--workers", "7"),
    ("--workers", "16"),
    ("--workers", "2", "--shard-size", "1"),
    ("--workers", "0", "--shard-size", "16"),
    ("--workers", "0", "--shard-size", "64"),
    ("--workers", "0", "--shard-size", "128"),
]
DEBIAN = ("python3.11", "libstdc++6", "libgomp1")
WHEELS = ("numpy", "numba", "joblib", "threadpoolctl")
WHEEL_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64", "any")


@dataclass(frozen=True)
class Case:
    """One way to run the same steps."""

    what: str
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ("--workers", "0")
    python: tuple[str, ...] = (sys.executable,)


def steps_sha256(steps: int, workers: int, shard_size: int | None) -> str:
    """The SHA-256 of the parameters after the first steps of the default run. 0 workers are the serial engine."""
    train, _ = load()
    model, optimizer = _published.network_and_optimizer(train, "compiled", BATCH_SIZE)
    where = {"engine": "serial"} if workers == 0 else {"n_workers": workers}
    with Coordinator(model, optimizer, batch_size=BATCH_SIZE, shard_size=shard_size, seed=SEED, **where) as coordinator:
        for _ in coordinator.iterate(train, epochs=steps):
            if coordinator.step == steps:
                break
        return coordinator.parameters_sha256()


def instructions(folder: Path) -> Iterator[Case]:
    """The instructions of other processors, as far as this one has them."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__  # type: ignore[import-not-found]

    for name, needed in PROCESSORS.items():
        if all(__cpu_features__.get(feature) for feature in needed):
            variables = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(folder / name)}
            yield Case(f"compiled for {name}", variables)
    dispatched = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    yield Case("NumPy without its vector code", {"NPY_DISABLE_CPU_FEATURES": " ".join(dispatched)})
    yield Case("C library without AVX2 and FMA", {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F"})


def numpys(folder: Path) -> Iterator[Case]:
    """Each version in a virtual environment, with the numba that pip chooses for it."""
    for number, version in enumerate(NUMPY):
        home = folder / f"numpy{number}"
        venv.create(home, with_pip=True)
        python = str(home / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        subprocess.run([python, "-m", "pip", "install", "-q", version, *WHEELS[1:]], check=True)
        probe = "import numpy, numba; print(f'NumPy {numpy.__version__}, numba {numba.__version__}')"
        what = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=True).stdout.strip()
        yield Case(what, {"NUMBA_CACHE_DIR": str(home / "cache")}, python=(python,))


def blas(folder: Path) -> Iterator[Case]:
    """OpenBLAS's code for other processors."""
    for name in BLAS:
        yield Case(f"OpenBLAS for {name}", {"OPENBLAS_CORETYPE": name})


def work(folder: Path) -> Iterator[Case]:
    """Numbers of workers and sizes of shards."""
    for options in WORK:
        workers = options[1] if options[1] != "0" else "no"
        size = f", shards of {options[3]}" if len(options) > 2 else ""
        yield Case(f"{workers} worker{'s' * (workers != '1')}{size}", options=options)


def aarch64(folder: Path) -> Iterator[Case]:
    """Debian's Python for arm64, with wheels for aarch64, emulated by QEMU."""
    root, site, debs, wheels, apt = (folder / name for name in ("root", "site", "debs", "wheels", "apt"))
    for each in (debs, wheels, apt / "lists" / "partial", apt / "cache" / "archives" / "partial"):
        each.mkdir(parents=True)
    (apt / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": str(apt),
        "Dir::State::status": str(apt / "status"),
        "Dir::Cache": str(apt / "cache"),
        "APT::Sandbox::User": "root",
    }
    foreign = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    subprocess.run([*foreign, "update"], check=True)
    simulated = subprocess.run(
        [*foreign, "--no-install-recommends", "-s", "install", *DEBIAN], check=True, capture_output=True, text=True
    )
    packages = [line.split()[1].split(":")[0] for line in simulated.stdout.splitlines() if line.startswith("Inst ")]
    subprocess.run([*foreign, "download", *packages], check=True, cwd=debs)
    subprocess.run(["apt-get", "-qq", "download", "qemu-user-static"], check=True, cwd=folder)
    for file, to in [
        *((deb, root) for deb in debs.iterdir()),
        *((deb, folder / "qemu") for deb in folder.glob("*.deb")),
    ]:
        subprocess.run(["dpkg", "-x", file, to], check=True)
    platforms = [word for name in WHEEL_PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "-q", "install", "--only-binary=:all:", "--python-version", "3.11"]
    subprocess.run([*pip, *platforms, "--target", site, *WHEELS], check=True)
    variables = {"PYTHONPATH": str(site), "NUMBA_CACHE_DIR": str(folder / "cache")}
    qemu = (str(folder / "qemu/usr/bin/qemu-aarch64-static"), "-L", str(root), str(root / "usr/bin/python3.11"))
    yield Case("aarch64, emulated", variables, python=qemu)


GROUPS = {"instructions": instructions, "numpy": numpys, "blas": blas, "work": work, "aarch64": aarch64}


def run(case: Case, steps: int) -> str:
    """The SHA-256 of a case, computed by a program of its own."""
    path = os.pathsep.join(filter(None, [str(ROOT), case.environment.get("PYTHONPATH")]))
    command = [*case.python, __file__, "--steps", str(steps), "--print", *case.options]
    environment = {**os.environ, **case.environment, "PYTHONPATH": path}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{case.what}: the program ended with exit code {result.returncode}:\n{result.stderr}")
    return result.stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table. The exit code is 1 if two hashes differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="NAME", help=f"any of {', '.join(GROUPS)}")
    parser.add_argument("--steps", type=int, default=_published.STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--print", action="store_true", help="only print the SHA-256 of this surrounding")
    parser.add_argument("--workers", type=int, default=0, help="of --print; 0: in this process (default: 0)")
    parser.add_argument("--shard-size", type=int, help="of --print")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.what) - set(GROUPS):
        parser.error(f"unknown name {sorted(unknown)[0]!r}: choose from {', '.join(GROUPS)}")
    if arguments.print:
        print(steps_sha256(arguments.steps, arguments.workers, arguments.shard_size))
        return 0
    console = Console(json=arguments.json)
    names = arguments.what or [name for name in GROUPS if name != "aarch64"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="same-bits-") as folder:
        for name in names:
            home = Path(folder, name)
            home.mkdir()
            for case in GROUPS[name](home):
                rows.append((name, case.what, run(case, arguments.steps)))
                console.note(f"{case.what}: {rows[-1][2][:16]}...")
    different = len({sha256 for _, _, sha256 in rows})
    if arguments.json:
        print(json.dumps({"steps": arguments.steps, "different": different, "runs": rows}))
    else:
        title = f"SHA-256 of the parameters after {arguments.steps} steps"
        console.table(title, ("", "with", "begins with"), [(group, what, sha[:16]) for group, what, sha in rows])
    console.note(f"{len(rows)} runs, {different} different result{'s' * (different != 1)}")
    if arguments.steps == _published.STEPS:
        console.note(_published.compare("compiled", arguments.steps, BATCH_SIZE, rows[0][2])[1])
    return 0 if different == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
