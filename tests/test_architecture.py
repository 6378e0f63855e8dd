"""The shape of the package: imports point one way and have no effects, names are explicit, extras are optional."""

import ast
import inspect
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from kits.programs import PACKAGE_FOLDER, Run

import parallel_lenet
from parallel_lenet.model import Model
from parallel_lenet.optimizers import Optimizer

PACKAGE = Path(PACKAGE_FOLDER) / "parallel_lenet"
ROOT = Path(__file__).resolve().parents[1]

# Top to bottom: a module imports only what stands below it. A new module has to find its place here.
ORDER = (
    "__main__",
    "cli",  # And all within it, among which there is only to be no circle.
    "sklearn",  # Not among the public names: it needs an extra.
    "",  # The public names.
    "doctor",
    "doctor.speed",
    "doctor.leftovers",
    "doctor.extras",
    "doctor.memory",
    "doctor.compiler",
    "doctor.threads",
    "doctor.processor",
    "doctor.cores",
    "doctor.python",
    "doctor.packages",
    "doctor.requirements",
    "doctor.probe",
    "doctor.redaction",
    "doctor.finding",
    "explain.slides",
    "explain.page",
    "explain.source",
    "explain.figures",
    "explain.figures.parallel",
    "explain.figures.training",
    "explain.figures.gradients",
    "explain.figures.backward",
    "explain.figures.forward",
    "explain.figures.convolution",
    "explain.figures.overview",
    "explain.figures.words",
    "explain.drawing",
    "explain",
    "explain.parallel",
    "explain.backward",
    "explain.forward",
    "explain.lesson",
    "explain.numbers",
    "explain.trace",
    "report",
    "report.seeds",
    "report.pad",
    "report.comparison",
    "report.charts",
    "report.summary",
    "report.timeline",
    "report.insides",
    "report.series",
    "report.page",
    "pictures.prediction",
    "pictures",
    "pictures.unit",
    "pictures.digit",
    "pictures.ink",
    "pictures.files",
    "pictures.components",
    "runs.folder",
    "trackers.mlflow",
    "trackers.tensorboard",
    "trackers",
    "runs.differences",
    "runs.statistics",
    "runs.run",
    "runs.predictions",
    "runs.environment",
    "runs.events",
    "runs.steps",
    "runs",
    "coordinator",
    "step_end",
    "tracing",
    "averaging",
    "calls",
    "continuation",
    "warming",
    "workforce",
    "settings",
    "arguments",
    "read_only",
    "updates",
    "export",
    "export.graph",
    "weights",
    "weights.matching",
    "weights.files",
    "weights.convention",
    "trained",
    "evaluation",
    "finite",
    "checkpoint",
    "descriptions",
    "display.progress",
    "stopping",
    "reports",
    "turns",
    "class_names",
    "archive",
    "checking.isolated",
    "checking.child",
    "checking.speed",
    "checking.kernels",
    "checking.layers",
    "checking.diagnosis",
    "checking.calls",
    "checking.report",
    "checking",
    "engines.make",
    "engines.cluster.engine",
    "engines.cluster.answers",
    "engines.cluster.ray",
    "engines.cluster.dask",
    "engines.cluster.backends",
    "engines.cluster.limits",
    "engines.cluster.guard",
    "engines.processes.engine",
    "engines.cluster.task",
    "engines.cluster.versions",
    "engines.cluster",
    "engines.processes.worker_main",
    "engines.processes.worker_process",
    "engines.processes.placement",
    "engines.processes.start",
    "engines.processes.dispatcher",
    "engines.processes.messages",
    "engines.processes",
    "engines.remote_exceptions",
    "engines.serial",
    "engines.imports",
    "engines.snapshots",
    "engines.mapped_files",
    "engines.memory",
    "engines.copying",
    "engines",
    "worker",
    "network.gradcheck",
    "network.fitted",
    "network.lenet5",
    "network.layerwise",
    "network.sequential",
    "network.losses",
    "network.buffers",
    "network.layers",
    "network.images",
    "augmentation",
    "augmentation.compiled",
    "augmentation.warp",
    "random_compiled",
    "model",
    "metrics",
    "optimizers",
    "clipping",
    "kernels.compiled",
    "kernels.compiled.adam",
    "kernels.compiled.program",
    "kernels.compiled.pairs",
    "kernels.compiled.convolution",
    "kernels.compiled.dense",
    "kernels.compiled.pooling",
    "kernels.compiled.elementwise",
    "kernels.compiled.softmax",
    "kernels.compiled.functions",
    "kernels.compiled.products",
    "kernels.compiled.biases",
    "kernels.compiled.sums",
    "kernels.compiled.tiles",
    "kernels.compiled.lanes",
    "kernels.compiled.scalars",
    "kernels.compiled.vectors",
    "kernels.compiled.tile_type",
    "kernels.compiled.jit",
    "kernels.compiled.jit_cache",
    "kernels.im2col",
    "kernels.naive",
    "kernels",
    "kernels.files",
    "user_files",
    "schedules",
    "batching",
    "tree",
    "datasets",
    "datasets.bundled",
    "datasets.downloads",
    "datasets.local",
    "datasets.parquet",
    "datasets.image_folder",
    "datasets.picture_stack",
    "datasets.array_files",
    "datasets.parts",
    "datasets.npy",
    "datasets.folder",
    "datasets.idx",
    "datasets.dataset",
    "datasets.weights",
    "datasets.arrays",
    "datasets.values",
    "network.pixels",  # What arrays of images mean. The rest of `network` is above.
    "network",
    "image_files",
    "resizing",
    "fingerprint",
    "display.curves",
    "display.thumbnails",
    "display",
    "parameters",
    "sample_keys",
    "random",
    "arithmetic",
    "slices",
    "cores",
    "closing",
    "limits",
    "optional",
    "jsonable",
    "png",
    "files",
    "descriptors",
    "checks",
)

# A program, and what needs numba.
NOT_IMPORTED = (
    "__main__",
    "sklearn",
    *(name for name in ORDER if name.startswith(("kernels.compiled", "augmentation.compiled", "random_compiled"))),
)

# What may be imported within a function, and why.
LATE = {
    ("optimizers", "parallel_lenet.kernels.compiled.adam"),  # An extra.
    ("explain.slides", "matplotlib"),  # An extra.
    ("explain.slides", "matplotlib.font_manager"),  # The same.
    ("explain.slides", "matplotlib.figure"),  # The same.
    ("explain.slides", "matplotlib.patches"),  # The same.
    ("network.sequential", "parallel_lenet.random_compiled"),  # An extra.
    ("augmentation", "parallel_lenet.augmentation.compiled"),  # An extra.
    ("", "f'{__name__}.{name}'"),  # Public names, each when it is used: see parallel_lenet/__init__.py.
    ("", "f'{__name__}.{_MODULES[name]}'"),  # The same.
    ("datasets.bundled", "importlib.resources"),  # It takes 10 ms of a worker's start.
    ("optional", "importlib.metadata"),  # 20 ms, for failures only.
    ("kernels", "<f'parallel_lenet.kernels.{name}'>"),  # An extra.
    ("cores", "joblib"),  # It takes 0.1 s.
    ("cores", "multiprocessing"),  # With joblib, which imports it.
    ("engines.serial", "threadpoolctl"),  # Importing it sets KMP_DUPLICATE_LIB_OK.
    ("engines.imports", "joblib.externals"),  # The same, while the workers start.
    ("engines.imports", "cloudpickle"),  # The same.
    ("engines.processes.messages", "fcntl"),  # Not on Windows.
    ("runs.folder", "fcntl"),  # Not on Windows.
    ("doctor.memory", "resource"),  # Not on Windows.
    ("engines.remote_exceptions", "joblib.externals.loky.backend.reduction"),  # The same, for failures only.
    ("kernels", "f'parallel_lenet.kernels.{resolve(name)}'"),  # One kernel, the one that a model names.
    ("optional", "module or library"),  # An extra.
    ("display.progress", "<f'rich.{name}'>"),  # An extra.
    ("display.progress", "IPython.display"),  # In a notebook, which has it.
    ("engines.cluster.backends", "<self.module>"),  # An extra.
    ("export", "safetensors.numpy"),  # An extra.
    ("export.graph", "onnx"),  # An extra.
    ("weights.files", "safetensors"),  # An extra.
    ("trackers.mlflow", "mlflow.tracking"),  # An extra.
    ("trackers.mlflow", "mlflow"),  # The same.
    ("trackers.tensorboard", "<f'tensorboardX.{name}'>"),  # An extra.
    ("image_files", "PIL.Image"),  # An extra.
    ("datasets.picture_stack", "PIL.ImageOps"),  # An extra.
    ("datasets.parquet", "pyarrow.parquet"),  # An extra.
    ("pictures.files", "PIL.ImageOps"),  # An extra.
    ("report.page", "jinja2"),  # An extra.
    ("report.page", "matplotlib"),  # An extra.
    ("report.page", "matplotlib.figure"),  # An extra.
    ("datasets.downloads", "pooch"),  # An extra.
    ("datasets.downloads", "requests"),  # An extra.
    ("engines.cluster.engine", "joblib"),  # 0.1 s.
    ("engines.cluster.backends", "joblib"),  # The same.
    ("engines.cluster.backends", "joblib.externals.loky"),  # The same.
    ("engines.cluster.task", "joblib.externals.loky.backend.reduction"),  # The same.
    ("engines.cluster.dask", "dask"),  # An extra.
    ("engines.cluster.dask", "dask.distributed"),  # An extra.
    ("engines.cluster.dask", "cryptography"),  # An extra.
    ("engines.cluster.ray", "ray"),  # An extra.
    ("engines.cluster.ray", "ray._private"),  # An extra.
    ("engines.cluster.ray", "ray.util.joblib"),  # An extra.
}
EXTRAS = (
    "rich",
    "pooch",
    "requests",
    "numba",
    "matplotlib",
    "jinja2",
    "PIL",
    "pyarrow",
    "sklearn",
    "torch",
    "dask",
    "distributed",
    "cryptography",
    "ray",
    "shtab",
    "onnx",
    "safetensors",
    "tensorboardX",
    "mlflow",
)
NOT_AT_ONCE = (*EXTRAS, "joblib", "multiprocessing.resource_tracker")


def name_of(file: Path) -> str:
    """``engines.serial`` for parallel_lenet/engines/serial.py, ``engines`` for its __init__, "" for the package's."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax trees of all modules, by their names within the package."""
    return {name_of(file): ast.parse(file.read_text()) for file in PACKAGE.rglob("*.py")}


def imported(node: ast.AST) -> Iterator[str]:
    """The full names of what an import statement, or a call of import_module, imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        module = str(node.module)
        for alias in node.names:
            # Under another name the branches below would not see the call.
            assert alias.name != "import_module" or alias.asname is None, "import_module keeps its name"
            assert f"{module}.{alias.name}" != "parallel_lenet.optional.load", "extras are loaded by optional.load"
            inner = f"{module}.{alias.name}"
            yield inner if inner.removeprefix("parallel_lenet.") in modules() and inner != module else module
    elif isinstance(node, ast.Call) and called_name(node) in ("import_module", "__import__"):
        name = node.args[0]
        yield str(name.value) if isinstance(name, ast.Constant) else ast.unparse(name)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "optional.load":
        name = node.args[3] if len(node.args) > 3 else node.args[1]
        yield str(name.value) if isinstance(name, ast.Constant) else f"<{ast.unparse(name)}>"


def called_name(call: ast.Call) -> str:
    """``f`` for a call of ``f(...)`` or ``module.f(...)``."""
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


def edges() -> Iterator[tuple[str, str]]:
    for name, tree in modules().items():
        for node in ast.walk(tree):
            for target in imported(node):
                if target == "parallel_lenet" or target.startswith("parallel_lenet."):
                    yield name, target.removeprefix("parallel_lenet").removeprefix(".")


def place(name: str) -> int:
    return ORDER.index("cli" if is_of_commands(name) else name)


def is_of_commands(name: str) -> bool:
    """Whether the module belongs to the command line."""
    return name == "cli" or name.startswith("cli.")


def test_every_module_has_its_place() -> None:
    assert {name for name in modules() if not is_of_commands(name) or name == "cli"} == set(ORDER)


def test_imports_point_downwards() -> None:
    wrong = [
        f"{name or 'parallel_lenet'} imports {target or 'parallel_lenet'}"
        for name, target in edges()
        if place(target) <= place(name) and not (is_of_commands(name) and target.startswith("cli."))
    ]
    assert wrong == []


def test_imports_make_no_circle() -> None:
    below: dict[str, set[str]] = {name: set() for name in modules()}
    for name, target in edges():
        below[name].add(target)
    while leaves := [name for name, targets in below.items() if not targets]:
        for leaf in leaves:
            del below[leaf]
        for targets in below.values():
            targets.difference_update(leaves)
    assert below == {}


def test_kernels_know_only_arrays_and_optimizers_know_only_vectors() -> None:
    for name, target in edges():
        if name == "kernels" or name.startswith("kernels."):
            # The last three say what does not work.
            assert (
                target == "kernels" or target.startswith("kernels.") or target in ("optional", "user_files", "checks")
            )
        if name == "optimizers":
            assert target in {
                "schedules",
                "kernels.compiled.adam",
                "arithmetic",
                "optional",
                "checks",
                "display",
            }


def test_imports_stand_at_the_top_except_the_listed_ones() -> None:
    late = set()
    for name, tree in modules().items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                late |= {(name, target) for node in ast.walk(function) for target in imported(node)}
    # The command line may load its extra, and a command's modules, when they are needed.
    late = {(name, target) for name, target in late if not is_of_commands(name) and name != "__main__"}
    assert late == LATE


# Who uses a stream of the program, and why.
STREAMS = {
    ("doctor.python", "sys.stdout"),  # It names the encoding.
    ("engines.processes.worker_main", "sys.stdout"),  # A worker's: what a model prints appears at once.
    ("engines.processes.start", "sys.__stderr__"),  # Where a worker's prints go.
    ("engines.cluster.guard", "sys.stderr"),  # A program of its own, the last that can say why the caller ended.
    ("display.progress", "sys.stderr"),  # The display that a program asks for.
    ("sklearn", "sys.stdout"),  # With verbose=1, as in scikit-learn.
}


def outputs(tree: ast.Module) -> Iterator[str]:
    """What the module writes with, or could write with, apart from files that it opens."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in ("print", "pprint"):
            yield node.id
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if (
                (owner == "sys" and node.attr.strip("_") in ("stdout", "stderr", "displayhook"))
                or (owner == "builtins" and node.attr == "print")
                or (owner == "traceback" and node.attr.startswith("print_"))
                or (owner == "logging" and node.attr in ("basicConfig", "StreamHandler"))
            ):
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "os.write":
            if isinstance(node.args[0], ast.Constant):
                yield "os.write"
        elif isinstance(node, ast.ImportFrom) and node.module in ("sys", "builtins", "pprint"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name != "getrefcount")
        elif isinstance(node, ast.Import):
            # Under another name the lines above would not see it.
            yield from (alias.name for alias in node.names if alias.name == "pprint")
            yield from (
                f"{alias.name} as {alias.asname}" for alias in node.names if alias.name == "sys" and alias.asname
            )


def test_the_library_prints_nothing() -> None:
    uses = {(name, use) for name, tree in modules().items() if not is_of_commands(name) for use in outputs(tree)}
    assert uses == STREAMS


# Who may unpickle, and what.
PICKLES = {
    "engines.imports",  # The user's model, pickled by this program.
    "engines.remote_exceptions",  # Exceptions from this program's workers.
    "engines.processes.messages",  # Messages to this program's workers.
    "engines.processes.worker_main",  # The same.
    "engines.processes.worker_process",  # The same.
    "engines.cluster.task",  # Tasks of a cluster that the user joins or starts.
    "kernels.compiled.jit_cache",  # Numba's machine code, in a folder of the user.
}


def test_nothing_is_unpickled_from_files_of_others() -> None:
    unsafe = ("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal")
    users = set()
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if any(target.split(".")[0] in unsafe for target in imported(node)):
                users.add(name)
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", name
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("joblib.load", "torch.load", "pandas.read_pickle"), name
    assert users == PICKLES


FORBIDDEN = re.compile(
    r"\b(whoever|whatever|lest|goes on|went on|so many|of no use|needn't|is no (?:checkpoint|number|array|list))\b",
    re.IGNORECASE,
)


def test_texts_use_plain_words() -> None:
    """A few of the words that CONTRIBUTING.md rules out. Readers must find the others."""
    texts = [*PACKAGE.rglob("*.py"), *ROOT.glob("scripts/**/*.py"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.md")]
    found = [f"{file}: {match.group()}" for file in texts for match in FORBIDDEN.finditer(file.read_text("utf-8"))]
    assert found == []


def test_a_file_of_more_than_300_lines_says_why() -> None:
    silent = [
        name
        for file in PACKAGE.rglob("*.py")
        if len(file.read_text().splitlines()) > 300
        and not re.search(
            r"is long(er than others)? because|300\s+lines", ast.get_docstring(modules()[name := name_of(file)]) or ""
        )
    ]
    assert silent == []


def test_all_names_every_public_name_once_in_order() -> None:
    (for_types,) = [node for node in modules()[""].body if ast.unparse(node).startswith("if TYPE_CHECKING")]
    bound = {
        alias.asname or alias.name: (f"{node.module}", alias.name)
        for node in ast.walk(for_types)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(parallel_lenet.__all__) == bound.keys() | {"__version__"}
    assert len(parallel_lenet.__all__) == len(set(parallel_lenet.__all__))
    for name, (module, inner) in bound.items():
        assert getattr(parallel_lenet, name) is getattr(import_module(module), inner)


def test_names_are_imported_when_they_are_used_and_mistakes_are_named(run: Run) -> None:
    program = """
import sys
import parallel_lenet
assert not [name for name in sys.modules if name.startswith("parallel_lenet.")]
assert "numpy" not in sys.modules
assert set(parallel_lenet.__all__) <= set(dir(parallel_lenet))
assert parallel_lenet.optimizers.SGD is parallel_lenet.SGD
assert parallel_lenet.kernels.NAMES
from parallel_lenet import *
assert Coordinator.__module__ == "parallel_lenet.coordinator"
for wrong in ("Coordinatr", "load", "nothing", "no.thing", "kernels.naive", ""):
    assert not hasattr(parallel_lenet, wrong)
from parallel_lenet import Coordinatr
"""
    result = run("-c", program, code=1)
    assert result.stderr.splitlines()[-1].startswith(
        "ImportError: cannot import name 'Coordinatr' from 'parallel_lenet'"
    )


@pytest.mark.parametrize("name", [name for name in parallel_lenet.__all__ if not name.startswith("__")])
def test_a_public_name_and_its_public_methods_are_documented(name: str) -> None:
    public = getattr(parallel_lenet, name)
    written = public.__doc__ or ""
    assert written
    assert not written.startswith(f"{name}("), "a dataclass's automatic docstring"
    if inspect.isclass(public):
        for member, value in vars(public).items():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                contracts = [each for each in CONTRACTS if has_members_of(public, each) and hasattr(each, member)]
                assert any(inspect.getdoc(getattr(each, member)) for each in (public, *contracts)), member


CONTRACTS = (Optimizer, Model)
"""Protocols: their docstrings count for every class that has their members."""


def has_members_of(public: type, contract: type) -> bool:
    members = [name for name, value in vars(contract).items() if not name.startswith("_") and inspect.isfunction(value)]
    return all(hasattr(public, name) for name in members)


def test_every_module_says_what_it_is_for() -> None:
    assert [name for name, tree in modules().items() if not ast.get_docstring(tree)] == []


def test_the_version_stands_in_one_place() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in settings["project"]["dynamic"]
    assert settings["tool"]["hatch"]["version"]["path"] == "parallel_lenet/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", parallel_lenet.__version__)


def test_importing_has_no_effects(run: Run) -> None:
    program = f"""
import atexit, gc, locale, logging, os, random, signal, socket, sys, threading, warnings
import numpy as np

# The tests' own process has imported the package, and hands down what that may have changed.
os.environ.clear()
os.umask(0o22)
for number in signal.valid_signals():
    if signal.getsignal(number) == signal.SIG_IGN and getattr(number, "name", "") not in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(number, signal.SIG_DFL)

effects = []
def watch(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        effects.append((event, arguments[0]))
    elif event.startswith(
        ("subprocess.", "socket.", "os.fork", "os.posix_spawn", "os.system", "os.putenv", "os.mkdir")
    ):
        effects.append((event, arguments))

def umask():
    value = os.umask(0o77)
    os.umask(value)
    return value

def state():
    return {{
        "environment": dict(os.environ), "folder": os.getcwd(), "umask": umask(), "threads": threading.enumerate(),
        "random": random.getstate(), "np.random": np.random.get_state()[1].tolist(), "errors": np.geterr(),
        "print": np.get_printoptions(), "warnings": list(warnings.filters), "path": list(sys.path),
        "signals": [signal.getsignal(s) for s in signal.valid_signals()], "timeout": socket.getdefaulttimeout(),
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "recursion": sys.getrecursionlimit(), "gc": (gc.isenabled(), gc.get_threshold()), "exit": atexit._ncallbacks(),
        "locale": locale.setlocale(locale.LC_ALL), "logging": (logging.root.level, list(logging.root.handlers)),
    }}

before = state()
sys.addaudithook(watch)
from parallel_lenet import *
after = state()
changed = [name for name in before if before[name] != after[name]]
assert changed == [], changed
assert effects == [], effects
print(sorted(sys.modules.keys() & set({NOT_AT_ONCE!r})))
"""
    assert run("-W", "error", "-c", program).stdout == "[]\n"


@pytest.fixture
def without_extras(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python, in workers too, finds no extra, as if none were installed."""
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
""")
    return {"PYTHONPATH": os.pathsep.join([str(folder), PACKAGE_FOLDER])}


def test_the_core_trains_without_any_extra(run: Run, without_extras: dict[str, str]) -> None:
    program = f"""
import sys
from parallel_lenet import Adam, Coordinator, Dataset, lenet5, load_dataset

train, test = load_dataset()
train = Dataset(train.inputs[:100], train.targets[:100])
results = set()
for engine in ("serial", "processes"):
    with Coordinator(lenet5(), Adam(), engine=engine, n_workers=2, batch_size=50, shard_size=16) as coordinator:
        coordinator.fit(train)
        results.add((coordinator.step, coordinator.parameters_sha256()))
(result,) = results
print(result[0], *[name for name in {EXTRAS!r} if name in sys.modules])
"""
    assert run("-c", program, env=without_extras).stdout == "2\n"


def test_every_module_imports_without_any_extra_but_the_kernel_that_is_one(
    run: Run, without_extras: dict[str, str]
) -> None:
    names = [f"parallel_lenet.{name}".rstrip(".") for name in modules() if name not in NOT_IMPORTED]
    program = f"""
import importlib
for name in {names!r}:
    importlib.import_module(name)
"""
    run("-c", program, env=without_extras)


def test_nothing_here_is_imported_that_pyproject_does_not_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in project["dependencies"]}
    for extra in project["optional-dependencies"].values():
        named |= {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in extra}
    used = {
        target.partition(".")[0] for tree in modules().values() for node in ast.walk(tree) for target in imported(node)
    }
    outside = {name for name in used if name.isidentifier()} - sys.stdlib_module_names - {"parallel_lenet"}
    brought = {
        "cloudpickle",  # joblib needs it, or brings a copy.
        "IPython",  # What a notebook runs in.
        "PIL",  # Pillow's module.
        "sklearn",  # That of scikit-learn.
        "mlflow",  # That of mlflow-skinny.
    }
    assert outside <= named | brought
    # The extras that the tests above take away are all that there are.
    core = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    assert outside - core <= {*EXTRAS, "cloudpickle", "IPython"}
