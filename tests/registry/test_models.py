import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from components.models.weights import DamagedFolderError, digest_folder
from components.registry import models
from components.registry.gates import Check, Verdict
from components.registry.models import (
    ModelNotFoundError,
    Version,
    download,
    find,
    generate_tag,
    list_versions,
    lookup,
    promote,
    register,
    resolve,
    resolve_version,
    rollback,
    write_generate,
)
from components.store.project import Project

KIND = "text-to-video"
YES = Verdict([Check("following", 0.9, 0.85, 0.4, True, "following: 0.900, needs 0.400")])
NO = Verdict([Check("following", 0.1, 0.05, 0.4, False, "following: 0.100, needs 0.400")])
Weights = Callable[[float], Path]


def promoted(project: Project, folder: Path) -> Version:
    return promote(project, KIND, register(project, KIND, folder, {}, {}), YES, find(project, KIND, "champion"))


def holders(project: Project) -> dict[str, int]:
    return {alias: version.number for version in list_versions(project, KIND) for alias in version.aliases}


def test_a_version_keeps_weights_figures_and_lineage(project: Project, weights: Weights):
    version = register(project, KIND, weights(1.0), {"following": 0.8125}, {"kinora.table.clips.version": 12})
    assert (version.name, version.number, version.aliases) == (f"{project.name}-text-to-video", 1, ("candidate",))
    assert version.weights == digest_folder(weights(1.0))
    assert version.tags["metric.following"] == "0.8125"
    assert version.tags["kinora.table.clips.version"] == "12"
    folder = download(project, version)
    assert digest_folder(folder) == version.weights
    assert folder.is_relative_to(project.artifacts)


def test_a_version_keeps_the_settings_of_sampling_that_it_was_evaluated_with(project: Project, weights: Weights):
    first, last = {"guidance_scale": 4.0, "guidance_interval": [0.0, 1.0], "step_cache": None}, {"guidance_scale": 2.0}
    assert register(project, KIND, weights(1.0), {}, {}).generate == {}
    version = register(project, KIND, weights(1.0), {}, generate_tag(first))
    assert version.generate == first
    write_generate(project, version, last)
    assert lookup(project, KIND, "1").generate == last
    with pytest.raises(ValueError, match=r"a tag keeps 5000; hint: a shorter `generate.negative_prompt`"):
        write_generate(project, version, {"negative_prompt": "x" * 5000})


def test_the_same_weights_are_one_version(project: Project, weights: Weights):
    first = register(project, KIND, weights(1.0), {}, {"note": "a"})
    again = register(project, KIND, weights(1.0), {}, {"note": "b"})
    other = register(project, KIND, weights(2.0), {}, {})
    assert (first.number, again.number, other.number) == (1, 1, 2)
    assert again.tags["note"] == "b"
    assert holders(project) == {"candidate": 2}


def test_nothing_is_pickled(project: Project, weights: Weights):
    folder = download(project, register(project, KIND, weights(1.0), {}, {})).parent.parent
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert "pyfunc_model.py" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]


def test_damaged_weights_are_neither_registered_nor_used(project: Project, weights: Weights):
    version = register(project, KIND, weights(1.0), {}, {})
    stored = download(project, version) / "dit.safetensors"
    stored.unlink()
    stored.write_bytes(b"something else")
    with pytest.raises(DamagedFolderError):
        download(project, version)
    (weights(3.0) / "dit.json").write_text("{}")
    broken = weights(3.0)
    (broken / "manifest.json").unlink()
    with pytest.raises(DamagedFolderError):
        register(project, KIND, broken, {}, {})
    assert len(list_versions(project, KIND)) == 1


def test_promotion_keeps_the_old_champion_and_rollback_brings_it_back(project: Project, weights: Weights):
    assert find(project, KIND, "champion") is None
    promoted(project, weights(1.0))
    assert holders(project) == {"champion": 1}
    promoted(project, weights(2.0))
    assert holders(project) == {"champion": 2, "previous-champion": 1}
    assert rollback(project, KIND).number == 1
    assert holders(project) == {"champion": 1, "previous-champion": 2}
    assert rollback(project, KIND).number == 2


def test_a_refused_candidate_is_only_written_down(project: Project, weights: Weights):
    promoted(project, weights(1.0))
    candidate = register(project, KIND, weights(2.0), {}, {})
    judged = promote(project, KIND, candidate, NO, find(project, KIND, "champion"))
    assert holders(project) == {"champion": 1, "candidate": 2}
    assert judged.tags["kinora.verdict"] == "reject"
    assert judged.tags["kinora.reasons"] == "following: 0.100, needs 0.400"


def test_promoting_the_champion_again_changes_nothing(project: Project, weights: Weights):
    promoted(project, weights(1.0))
    second = promoted(project, weights(2.0))
    promote(project, KIND, second, YES, second)
    assert holders(project) == {"champion": 2, "previous-champion": 1}


def test_a_kill_between_the_aliases_leaves_a_champion_and_is_made_good(project: Project, weights: Weights, monkeypatch: pytest.MonkeyPatch):
    promoted(project, weights(1.0))
    candidate = register(project, KIND, weights(2.0), {}, {})
    champion = find(project, KIND, "champion")
    client = models.client_of(project)
    real = type(client).set_registered_model_alias

    def killed(self, name: str, alias: str, version: str) -> None:
        if alias == "champion":
            raise KeyboardInterrupt
        real(self, name, alias, version)

    with monkeypatch.context() as patch:
        patch.setattr(type(client), "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            promote(project, KIND, candidate, YES, champion)
    assert holders(project) == {"champion": 1, "previous-champion": 1, "candidate": 2}
    promote(project, KIND, candidate, YES, champion)
    assert holders(project) == {"champion": 2, "previous-champion": 1}


def test_a_verdict_against_an_older_champion_is_not_carried_out(project: Project, weights: Weights):
    first = promoted(project, weights(1.0))
    late = register(project, KIND, weights(3.0), {}, {})
    second = promoted(project, weights(2.0))
    with pytest.raises(ValueError, match="another champion since the evaluation"):
        promote(project, KIND, late, YES, first)
    assert holders(project)["champion"] == second.number


def test_two_promotions_at_once_have_one_winner(project: Project, weights: Weights):
    versions = [register(project, KIND, weights(value), {}, {}) for value in (1.0, 2.0)]
    outcomes: list[str] = []

    def run(version: Version) -> None:
        try:
            promote(project, KIND, version, YES, None)
            outcomes.append("won")
        except ValueError:
            outcomes.append("lost")

    threads = [threading.Thread(target=run, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost", "won"]


def test_a_rollback_without_an_earlier_champion_says_so(project: Project, weights: Weights):
    with pytest.raises(ModelNotFoundError, match="no earlier champion"):
        rollback(project, KIND)
    promoted(project, weights(1.0))
    with pytest.raises(ModelNotFoundError, match="no earlier champion"):
        rollback(project, KIND)


def test_a_model_is_found_by_alias_number_address_or_folder(project: Project, weights: Weights):
    version = promoted(project, weights(1.0))
    name = version.name
    stored = download(project, version)
    logged = models.client_of(project).get_model_version(name, "1").source
    assert logged.startswith("models:/m-")
    for reference in ("champion", "1", f"models:/{name}/1", f"models:/{name}/latest", f"models:/{name}@champion", logged):
        assert resolve(project, KIND, reference) == stored
        found = resolve_version(project, KIND, reference)[1]
        assert found is not None
        assert (found.name, found.number) == (name, 1)
    assert resolve_version(project, KIND, str(weights(2.0))) == (weights(2.0), None)
    second = register(project, KIND, weights(2.0), {}, {})
    assert resolve(project, KIND, f"models:/{name}/latest") == download(project, second)


def test_a_folder_that_is_called_as_a_version_is_named_by_a_path(project: Project, weights: Weights, monkeypatch: pytest.MonkeyPatch):
    version = promoted(project, weights(1.0))
    place = weights(1.0).parent / "names"
    for name in ("champion", "1", "7", "smaller"):
        shutil.copytree(weights(2.0), place / name)
    monkeypatch.chdir(place)
    for reference in ("champion", "1"):
        assert resolve_version(project, KIND, reference) == (download(project, version), version)
        assert resolve_version(project, KIND, f"./{reference}") == (Path(reference), None)
    assert resolve_version(project, KIND, "smaller") == (Path("smaller"), None)
    with pytest.raises(ModelNotFoundError, match=r"`7` is no version of `.*`; hint: `--model ./7` is the folder of that name"):
        resolve_version(project, KIND, "7")


@pytest.mark.parametrize(
    "reference",
    ["champoin", "7", "models:/p/3", "/no/such/folder", "models:/p@champion", "models:/p/latest", "models:/p", "models:/m-0123456789"],
)
def test_a_model_that_is_not_there_is_one_sentence(project: Project, weights: Weights, reference: str):
    with pytest.raises(ModelNotFoundError, match=r"hint: .*--project"):
        resolve(project, KIND, "champion")
    with pytest.raises(ModelNotFoundError, match="there is no model `nope`; hint: `kinora show models` lists those of this project"):
        resolve(project, KIND, "models:/nope@champion")
    promoted(project, weights(1.0))
    with pytest.raises(ModelNotFoundError):
        resolve(project, KIND, reference)
    with pytest.raises(ModelNotFoundError, match="has no `champoin`; there are 1, champion"):
        resolve(project, KIND, "champoin")


PROMOTER = """
import sys
from pathlib import Path
from components.registry.gates import Check, Verdict
from components.registry.models import find, list_versions, promote
from components.store.project import Project

project, number = Project(Path(sys.argv[1]), sys.argv[2]), int(sys.argv[3])
champion = find(project, "video-vae", "champion")
version = next(version for version in list_versions(project, "video-vae") if version.number == number)
print("ready", flush=True)
sys.stdin.readline()
yes = Verdict([Check("psnr", 30.0, 29.0, 22.0, True, "psnr: 30.000, needs 22.000")])
try:
    promote(project, "video-vae", version, yes, champion)
except ValueError as error:
    print(error)
else:
    print("won")
"""


@pytest.mark.slow
def test_of_two_processes_that_promote_at_once_one_wins_and_the_other_is_told(
    project: Project, weights: Callable[[float], Path], repository: Path
):
    versions = [register(project, "video-vae", weights(value), {}, {}) for value in (1.0, 2.0, 3.0)]
    promote(project, "video-vae", versions[0], YES, None)
    commands = [[sys.executable, "-c", PROMOTER, str(project.root), project.name, number] for number in ("2", "3")]
    both = [subprocess.Popen(command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0].strip() for process in both]
    assert sorted(word == "won" for word in said) == [False, True], said
    lost = next(word for word in said if word != "won")
    assert "has another champion since the evaluation" in lost or "is already running" in lost
    aliases = {alias: version.number for version in list_versions(project, "video-vae") for alias in version.aliases}
    assert aliases["champion"] == (2 if said[0] == "won" else 3)
    assert aliases["previous-champion"] == 1
