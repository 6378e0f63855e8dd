"""A worker imports what the program imported, even if paths and folders have changed since."""

from pathlib import Path

import pytest
from kits.engine_contract import FEW
from kits.programs import Run

from parallel_lenet.engines.imports import pickle_model, unpickle_model

pytestmark = pytest.mark.slow

MODEL = """
import numpy as np
from parallel_lenet import Layout, Metrics
import helper

class Mine:
    layout = Layout.of({"weight": (4,)})
    def initial_parameters(self, rng):
        return np.zeros(4)
    def loss_and_gradient(self, parameters, inputs, targets, gradient):
        import late
        if gradient is not None:
            gradient[:] = helper.gradient(inputs)
        return Metrics(late.VALUE, 0, len(inputs))
    def predict(self, parameters, inputs):
        return inputs
"""
HELPER = "def gradient(inputs): return inputs.sum(axis=0)"
PROGRAM = """
import os, signal, sys
import numpy as np
from parallel_lenet import Coordinator, SGD
def loss(model):
    with Coordinator(model, SGD(0.1), n_workers=1) as coordinator:
        coordinator.fit((np.ones((8, 4)), np.zeros(8)), 1)
        return coordinator.history[-1].train_loss
"""


def write(folder: Path, name: str = "mine") -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.py").write_text(MODEL)
    (folder / "helper.py").write_text(HELPER)
    (folder / "late.py").write_text("VALUE = 8.0")


def test_files_with_names_of_the_standard_library_beside_the_program_are_not_taken_for_it(
    run: Run, tmp_path: Path
) -> None:
    """As in a notebook: the libraries are imported before the folder is on the path."""
    for name in ("random", "math", "queue", "select", "logging", "typing", "numbers", "decimal", "io"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('this is homework')")
    write(tmp_path)
    (tmp_path / "helper.py").write_text("import decimal, queue, random\n" + HELPER)
    program = (
        "import decimal, logging, math, queue, random, joblib\n"
        + PROGRAM
        + "import multiprocessing\nsys.path.insert(0, '.')\nfrom mine import Mine\nprint(loss(Mine()))"
    )
    assert run("-P", "-c", program).stdout == "1.0\n"


def test_a_folder_with_a_colon_and_a_changed_working_directory_are_no_obstacle(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "a:b")
    program = """
folder = os.path.abspath("a:b")
os.chdir(folder)
from mine import Mine
print(loss(Mine()))
with Coordinator(Mine(), SGD(0.1), n_workers=1) as coordinator:
    data = np.ones((8, 4)), np.zeros(8)
    coordinator.fit(data, 1)
    os.chdir("/")
    os.kill(coordinator.worker_pids()[0], signal.SIGKILL)
    print(coordinator.fit(data, 1)[-1].train_loss)
os.chdir(folder)
import late
os.chdir("/")
sys.path.remove("")
print(loss(Mine()))
"""
    assert run("-W", "ignore", "-c", PROGRAM + program).stdout == "1.0\n1.0\n1.0\n"


def test_modules_that_a_search_does_not_find_are_imported_from_their_files_or_travel_whole(
    run: Run, tmp_path: Path
) -> None:
    write(tmp_path / "plugins", name="inside")
    write(tmp_path / "elsewhere", name="twice")
    program = """
import importlib.util, types
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
sys.path.append(os.path.abspath("plugins"))
models = [load(name, "plugins/inside.py") for name in ("by_path", "tests.inside", "wave", "no.such.package")]
class Slotted:
    __slots__ = ()
    __class__ = types.ModuleType
sys.modules["slotted"] = Slotted()
sys.modules["nothing"] = None
made = sys.modules["made"] = types.ModuleType("made")
exec(open("plugins/inside.py").read(), made.__dict__)
with open("gone.py", "w") as file:
    file.write(open("plugins/inside.py").read())
gone = load("gone", "gone.py")
os.remove("gone.py")
sys.path.insert(1, os.path.abspath("elsewhere"))
import late, twice
sys.path.remove(os.path.abspath("elsewhere"))
open("twice.py", "w").write("raise RuntimeError('another module of this name')")
modules = (*models, made, gone, twice)
print([loss(module.Mine()) for module in modules])
with open("random.py", "w") as file:
    file.write("raise RuntimeError('a file that came later')")
print(loss(models[0].Mine()))
"""
    assert run("-c", PROGRAM + program).stdout == f"{[1.0] * 7}\n1.0\n"


def test_what_cannot_be_imported_is_one_sentence_that_names_module_and_class() -> None:
    message = pickle_model(FEW)  # type: ignore[arg-type]
    message = message.replace(b"parallel_lenet.datasets.dataset", b"parallel_lenet.datasets.dateset")
    with pytest.raises(
        ImportError,
        match=r"^a worker cannot import Dataset from the module parallel_lenet.datasets.dateset: No module named",
    ):
        unpickle_model(message)


def test_what_the_program_has_made_of_its_own_modules_counts_not_what_their_files_say(run: Run, tmp_path: Path) -> None:
    write(tmp_path, name="own")
    program = """
from parallel_lenet import Metrics
import own
source = open("own.py").read()
def three(self, parameters, inputs, targets, gradient):
    gradient[:] = 0
    return Metrics(3.0 * len(inputs) * own.SCALE * self.factor, 0, len(inputs))
own.SCALE = own.Mine.factor = 1.0
print(loss(own.Mine()))
own.Mine.loss_and_gradient = three
print(loss(own.Mine()))
own.Mine.factor = 2.0
print(loss(own.Mine()))
own.SCALE = 5.0
print(loss(own.Mine()))
with open("own.py", "w") as file:
    file.write("raise RuntimeError('edited meanwhile')")
print(loss(own.Mine()))
with open("own.py", "w") as file:
    file.write(source)
import threading
own.SCALE = threading.Lock()  # It cannot travel, so the worker imports the module.
print(loss(own.Mine()))
"""
    assert run("-c", PROGRAM + program).stdout.split() == ["1.0", "3.0", "6.0", "30.0", "30.0", "1.0"]
