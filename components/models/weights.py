"""Folders of weights: safetensors and JSON files written in one atomic step, with a manifest of their digests."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
LINKED_BYTES = 2**26
EMPTY_PROMPT = "empty_prompt"  # tensors of a pretrained text encoder's folder: what it makes of no words


class DamagedFolderError(ValueError):
    """A folder whose files are not those of its manifest; the message names the first one."""


def save_folder(
    folder: Path,
    tensors: Mapping[str, Mapping[str, "Tensor"]],
    meta: Mapping[str, Any],
    *,
    folders: Mapping[str, Path] | None = None,
    files: Mapping[str, Path] | None = None,
) -> str:
    """Writes a folder of weights, whole or not at all, and answers its digest.

    Args:
        tensors: tensors by name, by file stem: `{"vae": state_dict}` becomes `vae.safetensors`.
        meta: a JSON value by file stem: `{"vae": {...}}` becomes `vae.json`.
        folders: whole folders to copy, by name below this one; their own manifests are checked first. Of a large file, which nobody
            writes to again, it is another name where the disk can.
        files: single files to copy, by name.
    """
    folder = Path(folder)
    with new_folder(folder) as draft:
        for stem, named in tensors.items():
            write_tensors(draft / f"{stem}.safetensors", named)
        for stem, value in meta.items():
            (draft / f"{stem}.json").write_text(json.dumps(value, indent=1, sort_keys=True))
        for name, source in (folders or {}).items():
            verify_folder(source)
            shutil.copytree(source, draft / name, copy_function=_linked_or_copied)
        for name, path in (files or {}).items():
            shutil.copyfile(path, draft / name)
    return digest_folder(folder)


def load_tensors(folder: Path, name: str, device: str = "cpu") -> dict[str, "Tensor"]:
    """Reads `name.safetensors` of a folder after checking it against the manifest.

    Raises:
        DamagedFolderError: the file is missing or is not the one that was written.
    """
    from safetensors.torch import load_file

    return load_file(_checked(Path(folder), f"{name}.safetensors"), device=device)


def load_json(folder: Path, name: str) -> Any:
    """Reads `name.json` of a folder after checking it against the manifest."""
    return json.loads(_checked(Path(folder), f"{name}.json").read_text())


def copy_folder(source: Path, target: Path, meta: Mapping[str, Any]) -> str:
    """Writes a folder's copy with other JSON values in place of some of its own, by file stem, and answers the copy's digest."""
    verify_folder(source)
    with new_folder(target) as draft:
        shutil.copytree(source, draft, dirs_exist_ok=True)
        (draft / MANIFEST).unlink()
        for stem, value in meta.items():
            (draft / f"{stem}.json").write_text(json.dumps(value, indent=1, sort_keys=True))
    return digest_folder(target)


def digest_folder(folder: Path) -> str:
    """Answers the sha256 over the sorted (name, sha256) of a folder's manifest; the files themselves are not read."""
    listed = read_manifest(folder)
    return hashlib.sha256("".join(f"{name} {listed[name]['sha256']}\n" for name in sorted(listed)).encode()).hexdigest()


def verify_folder(folder: Path) -> None:
    """Checks every file of a folder against its manifest.

    Raises:
        DamagedFolderError: a file is missing, cut or changed.
    """
    for name in read_manifest(folder):
        _checked(Path(folder), name)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Answers size and sha256 of each file of a folder, by its relative name."""
    path = Path(folder) / MANIFEST
    try:
        files = json.loads(path.read_text())["files"]
        return {str(name): {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])} for name, entry in files.items()}
    except FileNotFoundError:
        raise DamagedFolderError(
            f"`{folder}` has no {MANIFEST}, so it was never finished; hint: run the stage that makes it again"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFolderError(f"`{path}` cannot be read ({type(error).__name__}); hint: run the stage that makes it again") from error


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"]) -> None:
    """Writes tensors as one safetensors file, contiguous and on the CPU; tensors that share memory are written apart."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    flat: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        flat[name] = plain
    save_file(flat, path)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Lends a draft folder; when the body ends well, its manifest is written last and it takes the place of `folder`.

    Everything reaches the disk before the move, so a kill at any moment leaves the old folder or the new one.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        draft.chmod(0o755)  # mkdtemp's 0700 would hide a finished folder from a tracking server's user
        yield draft
        files = {
            path.relative_to(draft).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        }
        (draft / MANIFEST).write_text(json.dumps({"files": files}, indent=1, sort_keys=True))
        for path in (*draft.rglob("*"), draft):
            _to_disk(path)
        _take_place(draft, folder)
        _to_disk(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Answers the sha256 of a file."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _checked(folder: Path, name: str) -> Path:
    listed = read_manifest(folder)
    path = folder / name
    if name not in listed:
        raise DamagedFolderError(
            f"`{folder}` has no `{name}` in its manifest; it holds {', '.join(sorted(listed))}; hint: a folder of the kind asked for"
        )
    if not path.is_file():
        raise DamagedFolderError(f"`{path}` is missing; hint: run the stage that makes it again")
    if path.stat().st_size != listed[name]["bytes"] or sha256_of(path) != listed[name]["sha256"]:
        raise DamagedFolderError(f"`{path}` is not the file that was written; hint: run the stage that makes it again")
    return path


def _linked_or_copied(source: str, target: str) -> None:
    if os.path.getsize(source) >= LINKED_BYTES:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def _take_place(draft: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(draft, folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.replace(folder, aside)  # a folder only replaces an empty one
    os.replace(draft, folder)
    shutil.rmtree(aside, ignore_errors=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
