"""The house rules that a reader of the source can check: one home a library, nothing unpickled, small imports, real columns."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from components.stages import STAGES
from components.store import schema

REPOSITORY = Path(__file__).resolve().parent.parent
HOMES = {
    "prefect": ("flows/",),
    "ray": ("components/cluster/",),
    "mlflow": ("components/registry/",),
    "lance": ("components/store/",),
    "pyarrow": ("components/store/",),
    "open_clip": ("components/openclip/",),
    "scenedetect": ("components/ingest/scenes.py",),
    "av": ("components/media/",),
    "cv2": ("components/media/", "components/measure/"),
    "diffusers": ("components/encode/pretrained_vae.py", "components/encode/pretrained_weights.py"),
    "transformers": ("components/encode/pretrained_text.py", "components/caption/vlm.py"),
    "tokenizers": ("components/encode/pretrained_text.py",),
    "pydantic": ("components/sections.py", "components/config.py", "components/deployments.py"),
    "click": ("flows/",),
    "rich": ("flows/", "components/report/"),
}
HEAVY = ("torch", "torchvision", "ray", "prefect", "mlflow", "lance", "pyarrow", "open_clip", "cv2", "av", "scenedetect", "pandas")
LIGHT_MODULES = (
    "components.sections",
    "components.config",
    "components.deployments",
    "components.stages",
    "components.store.project",
    "components.store.tables",
    "components.operations.plan",
    "components.operations.training_plan",
    "components.operations.freshness",
    "components.operations.doctor",
    "components.models.sizes",
    "flows.__main__",
    "flows.runner",
    "flows.embedded",
    "flows.environment",
)
UNPICKLERS = {"pickle", "cPickle", "_pickle", "pickle5", "jsonpickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = (
    "read_pickle",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.unsafe_load_all",
    "yaml.full_load",
    "yaml.full_load_all",
    "mlflow.pytorch.load_model",
    "mlflow.sklearn.load_model",
)


def sources() -> list[Path]:
    return sorted(path for folder in ("components", "flows") for path in (REPOSITORY / folder).rglob("*.py"))


def torch_only_sources() -> list[Path]:
    """models/, diffusion/, and of train/ the loops and what they stand on; batches and jobs may know the store."""
    folder = REPOSITORY / "components"
    train = [folder / "train" / f"{name}.py" for name in ("optim", "checkpoint", "context")]
    return sorted([*folder.glob("models/*.py"), *folder.glob("diffusion/*.py"), *folder.glob("train/*_loop.py"), *train])


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def imports(path: Path, type_checking: bool = True) -> Iterator[tuple[str, int]]:
    """Yields the modules that a file imports anywhere, with their lines."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree(path)):
        if not type_checking and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(inner for child in node.body for inner in ast.walk(child))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and isinstance(node.args[0], ast.Constant):
            yield node.args[0].value, node.lineno


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_at_its_home_only(library: str) -> None:
    strays = [
        f"{name_of(path)}:{line}"
        for path in sources()
        for module, line in imports(path)
        if module.split(".")[0] == library and not name_of(path).startswith(HOMES[library])
    ]
    assert strays == []


def test_networks_and_train_loops_name_torch_safetensors_and_the_standard_library_only() -> None:
    allowed = {"torch", "safetensors", *sys.stdlib_module_names}
    below = ("components.models", "components.diffusion", "components.train")
    strays = [
        f"{name_of(path)}:{line} imports {module}"
        for path in torch_only_sources()
        for module, line in imports(path, type_checking=False)
        if module.split(".")[0] not in allowed and not module.startswith(below)
    ]
    assert strays == []


def test_networks_and_train_loops_load_where_nothing_else_is_installed() -> None:
    """In a process whose importer refuses every other dependency of Kinora, as on a machine that has torch alone."""
    modules = [name_of(path).removesuffix(".py").replace("/", ".") for path in torch_only_sources() if path.stem != "__init__"]
    script = f"""
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        package, _, inner = name.partition(".")
        ours = package == "components" and inner.split(".")[0] not in ("", "models", "diffusion", "train")
        if ours or package in {refused()!r}:
            raise ImportError(name + " is not installed here")
sys.meta_path.insert(0, Refuse())
for name in {modules!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def refused() -> set[str]:
    """The import names of all that Kinora depends on, but for torch and safetensors."""
    with (REPOSITORY / "pyproject.toml").open("rb") as handle:
        listed = tomllib.load(handle)["project"]["dependencies"]
    renamed = {"pylance": "lance", "opencv-python": "cv2", "open-clip-torch": "open_clip", "pyyaml": "yaml"}
    names = {line.split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip() for line in listed}
    return {renamed.get(name, name) for name in names} - {"torch", "safetensors", "numpy"}  # torch itself looks for numpy


def test_light_modules_import_nothing_heavy() -> None:
    commands = [f"flows.commands.{path.stem}" for path in (REPOSITORY / "flows" / "commands").glob("[a-z]*.py")]
    script = f"""
import importlib, sys
for name in {[*LIGHT_MODULES, *commands]!r}:
    importlib.import_module(name)
print({set(HEAVY)!r} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr[-2000:]


def test_the_driver_of_an_evaluation_imports_no_torch() -> None:
    script = "import sys, components.jobs.evaluate, components.jobs.actors; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stdout + done.stderr[-2000:]


def unpickling(source: ast.Module) -> list[int]:
    """Answers the lines of a file that import or call what runs code of the bytes it reads, under whatever name."""
    known = dict(_names(source))
    found = [node.lineno for node, whole in _imported(source) if UNPICKLERS.intersection(whole.split("."))]
    for node in ast.walk(source):
        if isinstance(node, ast.Constant) and node.value in UNPICKLERS:  # for import_module or __import__
            found.append(node.lineno)
        elif isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            function = f"{known.get(first, first)}.{rest}".rstrip(".")
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unsafe = (
                (function == "torch.load" and given.get("weights_only") != "True")
                or (function == "numpy.load" and len(node.args) > 2)  # the third one is allow_pickle
                or given.get("allow_pickle", "False") != "False"
                or function.endswith(UNSAFE_CALLS)
            )
            found += [node.lineno] if unsafe else []
    return found


def _imported(source: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def _names(source: ast.Module) -> Iterator[tuple[str, str]]:
    """Yields what the names that a file imports stand for."""
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def test_nothing_is_unpickled() -> None:
    scripts = sorted((REPOSITORY / "benchmarks").glob("*.py"))
    assert [f"{name_of(path)}:{line}" for path in [*sources(), *scripts] for line in unpickling(tree(path))] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle as p",
        "from pickle import loads",
        "from ray import cloudpickle",
        "import joblib",
        "import dill",
        "from shelve import open as kept",
        "import marshal",
        "import importlib; importlib.import_module('pickle')",
        "__import__('_pickle')",
        "import numpy as np; np.load('f', allow_pickle=True)",
        "import numpy as np; np.load('f', allow_pickle=chosen)",
        "import numpy as np; np.load('f', None, True)",
        "import pandas as pd; pd.read_pickle('f')",
        "from pandas import read_pickle; read_pickle('f')",
        "import torch; torch.load('f')",
        "import torch as t; t.load('f', weights_only=False)",
        "from torch import load; load('f')",
        "from torch import load as read; read('f', map_location='cpu')",
        "import torch; torch.hub.load_state_dict_from_url('u')",
        "import torch; torch.jit.load('f')",
        "import yaml; yaml.load('a', yaml.Loader)",
        "from yaml import unsafe_load; unsafe_load('a')",
        "import mlflow; mlflow.pytorch.load_model('m')",
    ],
)
def test_whatever_unpickles_is_seen_under_every_name(line: str) -> None:
    assert unpickling(ast.parse(line)) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load('f', weights_only=True)",
        "import numpy as np; np.load('f', allow_pickle=False)",
        "import json; json.load(open('f'))",
        "import yaml; yaml.safe_load('a')",
        "from safetensors.torch import load; load(b'')",
    ],
)
def test_what_only_reads_is_let_be(line: str) -> None:
    assert unpickling(ast.parse(line)) == []


def test_no_text_becomes_a_command_or_code() -> None:
    strays = []
    for path in sources():
        for function, call in calls(path):
            shell = any(keyword.arg == "shell" and ast.unparse(keyword.value) != "False" for keyword in call.keywords)
            if shell or function in ("eval", "exec", "os.system", "os.popen"):
                strays.append(f"{name_of(path)}:{call.lineno}")
    assert strays == []


def test_the_columns_that_stages_read_and_write_exist() -> None:
    columns = {"videos": set(schema.VIDEOS.names), "clips": set(schema.CLIPS.names), "samples": set(schema.SAMPLES.names)}
    for stage in STAGES.values():
        assert set(stage.reads) <= columns["clips"] | columns[stage.table], stage.name
        assert set(stage.writes) <= columns[stage.table], stage.name


def test_the_columns_that_stage_classes_read_and_write_exist() -> None:
    known = {*schema.VIDEOS.names, *schema.CLIPS.names, *schema.SAMPLES.names}
    found = {}
    for path in sources():
        for place in (node for node in ast.walk(tree(path)) if isinstance(node, ast.Module | ast.ClassDef)):
            for line in place.body:
                target = line.target if isinstance(line, ast.AnnAssign) else line.targets[0] if isinstance(line, ast.Assign) else None
                if isinstance(target, ast.Name) and target.id in ("READS", "WRITES"):
                    found[f"{name_of(path)}: {getattr(place, 'name', '')}.{target.id}"] = set(ast.literal_eval(line.value))  # type: ignore[union-attr]
    assert found
    assert {place: sorted(names - known) for place, names in found.items() if names - known} == {}


def test_a_package_file_holds_a_docstring_at_most() -> None:
    for path in sources():
        if path.name == "__init__.py":
            body = tree(path).body
            assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body), name_of(path)


def test_no_file_is_named_after_nothing() -> None:
    assert [name_of(path) for path in sources() if path.stem in ("utils", "util", "common", "base", "helpers", "misc")] == []


def test_the_source_is_ascii() -> None:
    assert [name_of(path) for path in sources() if not path.read_bytes().isascii()] == []


def test_every_module_says_what_it_is() -> None:
    assert [name_of(path) for path in sources() if path.name != "__init__.py" and not ast.get_docstring(tree(path))] == []


def test_servers_of_ours_listen_on_loopback() -> None:
    """No address of all interfaces in the source, and after every option that names a host the loopback."""
    strays = []
    for path in sources():
        lint = name_of(path).startswith("components/operations/") and path.stem.endswith("_lint")  # these read what others wrote
        for node in () if lint else ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):
                strays.append(f"{name_of(path)}:{node.lineno}")
            for option, host in _options(node, "--host"):
                if host not in ("LOOPBACK", "'127.0.0.1'"):
                    strays.append(f"{name_of(path)}:{node.lineno} {option} {host}")
            if isinstance(node, ast.keyword) and node.arg in ("host", "dashboard_host") and ast.unparse(node.value) != "'127.0.0.1'":
                strays.append(f"{name_of(path)}:{node.value.lineno}")
    assert strays == []


def _options(node: ast.AST, option: str) -> Iterator[tuple[str, str]]:
    """Yields each place in a list of words where an option is followed by its value."""
    if isinstance(node, ast.List):
        words = [ast.unparse(word) for word in node.elts]
        yield from ((name, value) for name, value in itertools.pairwise(words) if name == repr(option))


def test_no_secret_is_a_word_of_a_command_line() -> None:
    """What stands in a command line is seen by everybody on the machine: secrets go by file or by environment."""
    telling = re.compile(r"--[a-z-]*(password|token|secret|auth-string)[a-z-]*(=|$)")
    strays = [
        f"{name_of(path)}:{node.lineno} {node.value}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and telling.search(node.value)
    ]
    assert strays == []
