"""Whether a storage refuses to write a name that is there already, which keeps the commits of several writers apart."""

import re
import threading
import uuid

from components.store.storage import Storage, StorageAwayError, StorageError, options_of, trouble_with

WRITERS, ROUNDS = 6, 2
REFUSED = re.compile(r"conflict|precondition|already exists|concurrent writers", re.IGNORECASE)  # of a name that was there: as it should be


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
            f"the storage `{uri}` lost {lost} commits of those that it took at once: it does not keep conditional writes; "
            "hint: use one that honours If-None-Match, as Amazon S3 does"
        )
    return None


def _lost_commits(place: str) -> int:
    """Answers how many commits were said to be written and are not there; one that was refused is not lost."""
    import lance
    import pyarrow as pa

    row, options = pa.table({"number": [1]}), options_of(place)
    lance.write_dataset(row.slice(0, 0), place, storage_options=options)
    taken: list[int] = []
    failed: list[Exception] = []
    for _ in range(ROUNDS):
        together = threading.Barrier(WRITERS)

        def commit(together: threading.Barrier = together) -> None:
            try:
                seen = lance.dataset(place, storage_options=options)
                together.wait(60)
                lance.write_dataset(row, seen, mode="append")
                taken.append(1)
            except threading.BrokenBarrierError:  # another one failed, and says why
                pass
            except Exception as error:
                together.abort()
                failed.append(error)

        writers = [threading.Thread(target=commit) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    for met in failed:
        if (trouble := trouble_with(place, met)) is not None:
            raise trouble from met
    lost = len(taken) - int(lance.dataset(place, storage_options=options).count_rows())
    others = [met for met in failed if not REFUSED.search(str(met))]
    if others and lost <= 0:
        raise ValueError(f"a commit failed: {others[0]}") from others[0]
    return lost
