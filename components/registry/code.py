"""The code that a registered model carries: the modules that generating, captioning or reconstructing imports, and no others."""

import ast
import shutil
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
ENTRY = "registry/pyfunc_model.py"


def copy_code(folder: Path) -> Path:
    """Copies into a folder what `pyfunc_model.py` needs of this package, by the names of modules in its sources; answers the copy.

    A module is needed when a needed one imports it, at its top or later, or says its whole name as a text, as `import_module` asks for.
    """
    for path in needed():
        target = folder / PACKAGE.name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / path, target)
    return folder / PACKAGE.name


def needed() -> list[Path]:
    """Answers the needed files, relative to the package, its entry left out: MLflow keeps that one itself."""
    found: set[Path] = set()
    waiting = [Path(ENTRY)]
    while waiting:
        for path in _named_in(waiting.pop()):
            if path not in found:
                found.add(path)
                waiting.append(path)
    return sorted(found)


def _named_in(path: Path) -> set[Path]:
    """Answers the files of all modules that a file names, and of the packages they are in."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
            case ast.Constant(value=str(text)):
                names.add(text)
    files: set[Path] = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == PACKAGE.name and (file := _file_of(parts[1:])):
            files |= {file, *(Path(*parts[1:end], "__init__.py") for end in range(1, len(parts)))}
    return files


def _file_of(parts: list[str]) -> Path | None:
    module = Path(*parts)
    candidates = (module.with_suffix(".py"), module / "__init__.py") if parts else (Path("__init__.py"),)
    return next((path for path in candidates if (PACKAGE / path).is_file()), None)
