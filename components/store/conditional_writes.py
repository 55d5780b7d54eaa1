"""Whether a storage refuses to write a name that is there already, which keeps the commits of several writers apart."""

import threading
import uuid

from components.store.storage import Storage, StorageAwayError, StorageError, options_of, trouble_with

WRITERS, ROUNDS = 6, 2


def check(uri: str) -> str | None:
    """Commits to a table of its own from several threads at the same version, and answers None when no commit was lost.

    Returns:
        Else one sentence with the way out. The table is removed again.
    """
    place = f"{uri.rstrip('/')}/.conditional-writes/{uuid.uuid4().hex}.lance"
    try:
        storage = Storage(place)
        storage.check()
        try:
            lost = _lost_commits(place)
        finally:
            storage.delete(storage.list())
    except (StorageError, StorageAwayError) as error:
        return str(error)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        return f"the storage `{uri}` takes no table ({said}); hint: credentials need to list, read, write and delete"
    if lost:
        return (
            f"the storage `{uri}` lost {lost} of {WRITERS * ROUNDS} commits made at once: it does not keep conditional writes; "
            "hint: use one that honours If-None-Match, as Amazon S3 does"
        )
    return None


def _lost_commits(place: str) -> int:
    import lance
    import pyarrow as pa

    row, options = pa.table({"number": [1]}), options_of(place)
    lance.write_dataset(row.slice(0, 0), place, storage_options=options)
    for _ in range(ROUNDS):
        together = threading.Barrier(WRITERS)
        failed: list[Exception] = []

        def commit(together: threading.Barrier = together, failed: list[Exception] = failed) -> None:
            try:
                seen = lance.dataset(place, storage_options=options)
                together.wait(60)
                lance.write_dataset(row, seen, mode="append")
            except Exception as error:
                together.abort()
                failed.append(error)

        writers = [threading.Thread(target=commit) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        for met in failed:  # one that met a manifest changed under its hands is a lost commit like the others
            if (trouble := trouble_with(place, met)) is not None:
                raise trouble from met
    return WRITERS * ROUNDS - int(lance.dataset(place, storage_options=options).count_rows())
