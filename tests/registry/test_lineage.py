import subprocess
from pathlib import Path

from components.registry.lineage import TableRead, lineage_tags
from components.stages import digest


def test_tags_name_rows_makers_settings_and_models(tmp_path: Path):
    tags = lineage_tags(
        settings={"vae": {"steps": 3}},
        tables={"clips": TableRead(version=12, rows=400, rows_digest="abc")},
        makers={"caption": "def"},
        upstream={"video-vae": 3},
        repository=tmp_path,
    )
    assert tags.pop("kinora.settings") == digest({"vae": {"steps": 3}})
    tags.pop("kinora.code.version", None)
    assert tags == {
        "kinora.table.clips.version": "12",
        "kinora.table.clips.rows": "400",
        "kinora.table.clips.digest": "abc",
        "kinora.maker.caption": "def",
        "kinora.upstream.video-vae": "3",
    }


def test_the_commit_is_told_and_whether_the_code_differs_from_it(tmp_path: Path):
    def git(*command: str) -> str:
        settings = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
        return subprocess.run(["git", *settings, *command], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "a")
    tags = lineage_tags(settings={}, repository=tmp_path)
    assert tags["kinora.code.commit"] == git("rev-parse", "HEAD")
    assert tags["kinora.code.changed"] == "false"
    (tmp_path / "a.py").write_text("2")
    assert lineage_tags(settings={}, repository=tmp_path)["kinora.code.changed"] == "true"
