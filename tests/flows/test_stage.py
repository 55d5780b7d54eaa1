"""Where a stage runs, by the settings, and what of."""

import contextlib
from pathlib import Path

import pytest

from components.config import load_config
from components.jobs.run import Run, unseen
from components.store.project import Project


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load_config("test", ["cluster.stages_in=job", f"root={tmp_path}"])
    return Run(config=config, project=Project(tmp_path, "apart"), source=None, manifest=None, progress=unseen)


def test_promote_runs_in_the_flow_that_alone_may_write_the_registry(run: Run) -> None:
    from flows.stage import run_where_set

    with pytest.raises(ValueError, match="no cluster's Jobs API is named"):
        run_where_set(run, "ingest")
    assert run_where_set(run, "promote").action == "run"  # with no cluster to be seen, and nothing to promote
    assert run.project.record("promote") is not None


def test_a_champion_is_tried_where_stages_work(run: Run, tmp_path: Path) -> None:
    from components.models.weights import new_folder
    from components.registry import gates, models
    from flows.check_champion import try_where_set

    assert try_where_set(run).action == "skip"  # without a champion no cluster is looked for
    with new_folder(tmp_path / "weights") as draft:
        (draft / "dit.json").write_text("{}")
    version = models.register(run.project, "text-to-video", tmp_path / "weights", {}, {})
    by_hand = gates.Verdict([gates.Check("by hand", None, None, None, True, "a person chose it")])
    models.promote(run.project, "text-to-video", version, by_hand, None)
    with pytest.raises(ValueError, match="no cluster's Jobs API is named"):
        try_where_set(run)


def test_a_machine_that_never_saw_a_project_takes_its_source_from_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    from components.store.mirror import push
    from flows.stage import held_ray, opened_run

    monkeypatch.setenv("KINORA_CONFIG", str(repository / "pipelines.yaml"))
    films, stored = tmp_path / "films", f"cluster.storage=file://{tmp_path}/storage"
    films.mkdir()
    before = held_ray.set(contextlib.ExitStack())  # as within a flow
    try:
        with opened_run(None, str(films), None, "test", [f"root={tmp_path}/first", stored]) as run:
            push(run.project)
        with opened_run("films", None, None, "test", [f"root={tmp_path}/second", stored]) as run:
            assert run.source == films
    finally:
        held_ray.reset(before)
