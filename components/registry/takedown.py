"""What a take-down changes in MLflow: files of runs that show footage go, and the models that read it are marked."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from components.registry.models import Version, reached
from components.registry.tracking import LONGEST_VALUE, experiment_of, tracking_uri
from components.store.project import Project

REMOVED_TAG = "kinora.rows_removed"


def remove_run_files(project: Project, is_to_go: Callable[[Mapping[str, str], str], bool]) -> int:
    """Removes files of a project's runs and answers how many.

    Args:
        is_to_go: told the tags of a run and the path of each of its files.

    Raises:
        RegistryUnavailableError: MLflow does not answer.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    gone = 0
    with reached(project, writes=True) as client:
        page = None
        while True:
            runs = client.search_runs([experiment_of(project, client)], max_results=1000, page_token=page)
            for run in runs:
                files = [path for path in _files(client, run.info.run_id) if is_to_go(run.data.tags, path)]
                for path in files:
                    get_artifact_repository(run.info.artifact_uri, tracking_uri=tracking_uri(project)).delete_artifacts(path)
                gone += len(files)
            page = runs.token
            if not page:
                return gone


def mark(project: Project, version: Version, removed: list[dict[str, Any]], tags: Mapping[str, str]) -> None:
    """Tags a model version, and the run of its training, with what was removed of the rows that it read.

    Args:
        removed: `video_id`, `clips` and `at` of each take-down.
        tags: others that changed with it.
    """
    with reached(project, writes=True) as client:
        for name, value in {**tags, **({REMOVED_TAG: said(removed)} if removed else {})}.items():
            client.set_model_version_tag(version.name, str(version.number), name, value)
            if version.run_id:
                client.set_tag(version.run_id, name, value)


def said(removed: Sequence[Mapping[str, Any]]) -> str:
    """Answers take-downs as a list in JSON that fits into a tag: the newest ones, and the sum of those before them as one."""
    ordered = sorted(removed, key=lambda one: str(one["at"]))
    for older in range(len(ordered) + 1):
        before = ordered[:older]
        summed = {"video_id": f"{older} earlier", "clips": sum(one["clips"] for one in before), "at": before[-1]["at"]} if before else None
        text = json.dumps([*([summed] if summed else []), *ordered[older:]])
        if len(text) <= LONGEST_VALUE:
            return text
    raise AssertionError("unreachable")


def _files(client: Any, run_id: str, folder: str | None = None) -> Iterator[str]:
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from _files(client, run_id, entry.path)
        else:
            yield entry.path
