"""The promoter's credentials are used for its moment alone, and only from a file that nobody else may read."""

import contextlib
import os
from pathlib import Path

import pytest

from components.registry.identity import as_promoter
from components.store.secret_files import SecretFileError


@pytest.fixture
def password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "password"
    path.write_text("hushed\n")
    path.chmod(0o600)
    monkeypatch.setenv("KINORA_PROMOTER_USERNAME", "promoter")
    monkeypatch.setenv("KINORA_PROMOTER_PASSWORD_FILE", str(path))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "trainer")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    return path


def credentials() -> tuple[str | None, str | None]:
    return os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")


def test_a_process_is_the_promoter_inside_and_itself_again_after_an_error(password: Path) -> None:
    inside = []
    with contextlib.suppress(KeyError), as_promoter():
        inside.append(credentials())
        raise KeyError
    assert inside == [("promoter", "hushed")]
    assert credentials() == ("trainer", None)


def test_without_a_promoter_a_process_stays_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    with as_promoter():
        assert os.environ["MLFLOW_TRACKING_USERNAME"] == "somebody"


def test_a_password_that_others_may_read_is_refused(password: Path) -> None:
    password.chmod(0o640)
    with (
        pytest.raises(SecretFileError, match=f"holds a secret that others on this machine may read; hint: `chmod 600 {password}`"),
        as_promoter(),
    ):
        pass


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_password_is_refused(password: Path, text: str) -> None:
    password.write_text(text)
    with pytest.raises(SecretFileError, match="is empty"), as_promoter():
        pass


def test_half_of_the_credentials_is_refused(password: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KINORA_PROMOTER_USERNAME")
    with pytest.raises(SecretFileError, match="`KINORA_PROMOTER_USERNAME` is not"), as_promoter():
        pass


def test_a_file_that_is_not_there_is_named(password: Path) -> None:
    password.unlink()
    with pytest.raises(SecretFileError, match="cannot be read"), as_promoter():
        pass
