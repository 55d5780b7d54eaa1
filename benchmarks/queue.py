"""Are 100 flow runs that are queued at once all run, and each once? See `queued_runs.py`.

Run: python -m benchmarks.queue [--quick]

The file has the name of a module of the standard library: where this folder comes first on the path, as in
`python benchmarks/faults.py`, whoever imports `queue` is given the library's.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "queue":
    before = sys.path[:]
    sys.path[:] = [place for place in before if Path(place or ".").resolve() != HERE]
    del sys.modules["queue"]
    sys.modules["queue"] = __import__("queue")
    sys.path[:] = before

if __name__ == "__main__":
    sys.path[:] = [str(HERE.parent), *(place for place in sys.path if Path(place or ".").resolve() != HERE)]
    from benchmarks.queued_runs import main

    main()
