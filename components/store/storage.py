"""A storage that any filesystem of pyarrow opens: what lies there, whole uploads and downloads, retries that end."""

import contextlib
import os
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import pyarrow.fs

Result = TypeVar("Result")

APPEARS_WHOLE = ("s3", "gcs")  # an object is there when its upload ends, never a part of it
CONNECT_SECONDS, REQUEST_SECONDS = 5.0, 60.0
SDK_ATTEMPTS, OUR_ATTEMPTS, FIRST_PAUSE_SECONDS = 3, 5, 0.25
PART_BYTES = 8 * 2**20
PASSING = re.compile(
    r"NETWORK_CONNECTION|SERVICE_UNAVAILABLE|SLOW_DOWN|THROTTLING|REQUEST_TIMEOUT|INTERNAL_FAILURE|HTTP status (?:429|5\d\d)"
    r"|error sending request|UNAVAILABLE|DEADLINE_EXCEEDED|timed? ?out|connection reset|curlCode",
    re.IGNORECASE,
)
NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist", re.IGNORECASE)
REFUSED = re.compile(r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|credential|HTTP status 40[13]", re.IGNORECASE)


class StorageError(ValueError):
    """A storage that cannot be used as it is named; the message is one sentence with the way out."""


class StorageAwayError(RuntimeError):
    """A storage that does not answer, after several tries; the same command goes on when it is back."""


@dataclass(frozen=True)
class Seen:
    """A file as a listing saw it."""

    num_bytes: int
    mtime_ns: int


class Storage:
    """A folder of a storage; names in it are relative, with `/` between their parts."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._files, self._folder = _opened(self.uri)

    def check(self) -> None:
        """Looks whether there is such a place at all.

        Raises:
            StorageError: there is no such bucket, or it may not be read.
            StorageAwayError: it does not answer.
        """
        from pyarrow.fs import FileType

        bucket = self._folder.partition("/")[0]
        if self._files.type_name in APPEARS_WHOLE:
            found = self._tried("read", "", lambda: self._files.get_file_info(bucket))
            if found.type == FileType.NotFound:
                raise StorageError(f"there is no bucket `{bucket}` for `{self.uri}`; hint: make it, or mend `cluster.storage`")

    def list(self, name: str = "") -> dict[str, Seen]:
        """Answers the files at or below a name, by their whole names."""
        from pyarrow.fs import FileSelector, FileType

        def listed() -> "list[pyarrow.fs.FileInfo]":
            try:
                found = self._files.get_file_info(FileSelector(self._place(name), recursive=True, allow_not_found=True))
            except NotADirectoryError:
                found = []
            return found if found or not name else [self._files.get_file_info(self._place(name))]

        files = [info for info in self._tried("list", name, listed) if info.type == FileType.File]
        names = {str(PurePosixPath(info.path).relative_to(self._folder)): info for info in files}
        return {name: Seen(info.size, info.mtime_ns or 0) for name, info in sorted(names.items()) if _is_plain(name)}

    def read(self, name: str) -> bytes:
        """Answers what a file holds."""

        def read() -> bytes:
            with self._files.open_input_stream(self._place(name), compression=None) as stream:
                return bytes(stream.read())

        return self._tried("read", name, read)

    def download(self, name: str, to: Path) -> None:
        """Copies a file of the storage to a place of this machine, whole or not at all."""
        to.parent.mkdir(parents=True, exist_ok=True)
        beside = to.with_name(f".{to.name}.{os.getpid()}")

        def copy() -> None:
            with self._files.open_input_stream(self._place(name), compression=None) as stream, beside.open("wb") as handle:
                while part := stream.read(PART_BYTES):
                    handle.write(part)

        try:
            self._tried("read", name, copy)
            os.replace(beside, to)
        finally:
            beside.unlink(missing_ok=True)

    def upload(self, path: Path, name: str) -> None:
        """Copies a file of this machine to the storage; nobody sees a part of it under its name.

        Raises:
            FileNotFoundError: the file went away meanwhile.
        """
        whole = self._files.type_name in APPEARS_WHOLE
        place = self._place(name)
        written = place if whole else f"{place.rpartition('/')[0]}/.{place.rpartition('/')[2]}.{os.getpid()}"

        def copy() -> None:
            if not whole:
                self._files.create_dir(place.rpartition("/")[0], recursive=True)
            with path.open("rb") as handle:
                _written(self._files, written, handle.read)
            if not whole:
                self._files.move(written, place)

        self._tried("write", name, copy)

    def delete(self, names: Iterable[str]) -> None:
        """Removes files, in order; one that is gone already is well."""
        for name in names:

            def remove(name: str = name) -> None:
                with contextlib.suppress(FileNotFoundError):
                    self._files.delete_file(self._place(name))

            self._tried("remove", name, remove)

    def _place(self, name: str) -> str:
        return f"{self._folder}/{name}" if name else self._folder

    def _tried(self, verb: str, name: str, action: Callable[[], Result]) -> Result:
        """Does something, again after a pause where the storage was busy or away for a moment."""
        for attempt in range(OUR_ATTEMPTS):
            try:
                return action()
            except FileNotFoundError:
                raise
            except OSError as error:
                if not PASSING.search(str(error)):
                    raise _explained(self.uri, verb, name, error) from error
                if attempt == OUR_ATTEMPTS - 1 or "curlCode: 7" in str(error) or "curlCode: 6" in str(error):
                    raise StorageAwayError(
                        f"the storage `{self.uri}` does not answer ({_short(error)}); "
                        "hint: AWS_ENDPOINT_URL names its address; the same command goes on when it is back"
                    ) from error
            time.sleep(random.uniform(0.5, 1.0) * FIRST_PAUSE_SECONDS * 2**attempt)
        raise AssertionError("unreachable")


def trouble_with(uri: str, error: Exception) -> Exception | None:
    """Answers what to say of an error of Lance's that is the storage's own and not the table's, None for another."""
    text = str(error)
    if "://" in uri and (REFUSED.search(text) or PASSING.search(text) or NO_BUCKET.search(text)):
        return _explained(uri, "read", "", error)
    return None


def options_of(uri: str) -> dict[str, str] | None:
    """Answers what Lance is told beside the URI of a table; credentials and addresses it takes from the environment itself."""
    if not uri.startswith("s3://"):
        return None
    options = {"connect_timeout": f"{CONNECT_SECONDS:g}s", "timeout": f"{REQUEST_SECONDS:g}s", "client_max_retries": "6"}
    endpoint = s3_endpoint()
    if endpoint is not None:
        options["aws_endpoint"] = endpoint
        if endpoint.startswith("http://"):
            options["allow_http"] = "true"
    if not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        options["aws_region"] = "us-east-1"
    return options


def s3_endpoint() -> str | None:
    """Answers the address of an S3 that is not Amazon's, from the environment."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _opened(uri: str) -> tuple["pyarrow.fs.FileSystem", str]:
    import pyarrow.fs

    parts = urlsplit(uri)
    try:
        if parts.scheme == "gs":
            patience = timedelta(seconds=REQUEST_SECONDS)
            return pyarrow.fs.GcsFileSystem(retry_time_limit=patience), f"{parts.netloc}{parts.path}".rstrip("/")
        if parts.scheme != "s3":
            files, folder = pyarrow.fs.FileSystem.from_uri(uri)
            return files, folder.rstrip("/")
        endpoint = urlsplit(s3_endpoint() or "")
        files = pyarrow.fs.S3FileSystem(
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            endpoint_override=endpoint.netloc or None,
            scheme=endpoint.scheme or "https",
            connect_timeout=CONNECT_SECONDS,
            request_timeout=REQUEST_SECONDS,
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=SDK_ATTEMPTS),
            allow_delayed_open=True,  # a small file is one request, not three
        )
        return files, f"{parts.netloc}{parts.path}".rstrip("/")
    except (ValueError, OSError, NotImplementedError) as error:
        raise StorageError(f"`cluster.storage` = `{uri}` cannot be opened ({_short(error)}); hint: `s3://BUCKET/FOLDER`") from error


def _written(files: "pyarrow.fs.FileSystem", place: str, read: Callable[[int], bytes]) -> None:
    """Streams parts to a place; what an error of the reader's leaves there is removed, since a stream cannot be given up."""
    with files.open_output_stream(place, compression=None) as stream:
        try:
            while part := read(PART_BYTES):
                stream.write(part)
        except BaseException as error:
            cut = error
        else:
            return
    files.delete_file(place)
    raise cut


def _explained(uri: str, verb: str, name: str, error: Exception) -> Exception:
    text = str(error)
    if NO_BUCKET.search(text):
        return StorageError(f"there is no bucket `{urlsplit(uri).netloc}` for `{uri}`; hint: make it, or mend `cluster.storage`")
    if REFUSED.search(text):
        return StorageError(
            f"the storage `{uri}` does not let us {verb} ({_short(error)}); "
            "hint: credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or the machine's role"
        )
    what = f"{verb} `{name}`" if name else f"be {verb}"
    return StorageAwayError(f"the storage `{uri}` cannot {what} ({_short(error)}); hint: the same command tries again")


def _is_plain(name: str) -> bool:
    """Answers False for names that would leave a folder, or that are drafts."""
    return not any(part.startswith(".") for part in PurePosixPath(name).parts)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:240]
