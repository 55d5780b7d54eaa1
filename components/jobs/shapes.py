"""The shapes that a project's clips are cut to: planned once from its footage, recorded, and kept for footage that comes later."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.cluster.rows import map_batches
from components.ingest.scenes import FindPieces
from components.ingest.shapes import Piece, Plan, Shapes, one_shape, plan_shapes
from components.ingest.sources import Source
from components.jobs.rows import announced
from components.jobs.run import Run
from components.jobs.samples import evenly
from components.operations.shapes import RECORD, recorded_plan
from components.store import mirror

LOOKED_AT = 512  # files that shapes are planned from, evenly taken from all
FILES_PER_BATCH = 8


def shapes_of(run: Run, sources: Sequence[Source], maker: str) -> Shapes:
    """Answers the shapes of a project's clips; the first time they are planned and recorded, until other settings ask for others.

    Args:
        maker: of the clips that are cut to them.

    Raises:
        ValueError: no shape can be planned; one sentence with the way out.
    """
    if run.config.clip.max_shapes == 1:
        return one_shape(run.config.clip)
    known = recorded_plan(run.project)
    if known is not None and known["maker"] == maker:
        return Plan.of(known["plan"]).shapes
    found = evenly([source for source in sources if source.status == "found"], LOOKED_AT)
    pieces = list(_pieces(run, found))
    if not pieces:  # then every file has its reason why no clip is cut of it
        return one_shape(run.config.clip)
    plan = plan_shapes(pieces, run.config.clip, run.config.scenes.min_scene_seconds)
    run.project.write_record(RECORD, {"maker": maker, "files": len(found), "plan": plan.as_dict()})
    mirror.push(run.project)  # at once: what goes on elsewhere cuts to the same
    return plan.shapes


def _pieces(run: Run, sources: Sequence[Source]) -> Iterator[Piece]:
    """Looks through files on Ray for their scenes."""
    batches = [[source.as_dict() for source in sources[at : at + FILES_PER_BATCH]] for at in range(0, len(sources), FILES_PER_BATCH)]
    actors, done, note = run.config.caption, 0, "files looked through for the shapes of their clips"
    found: dict[int, list[Piece]] = {}
    for at, pieces in map_batches(
        FindAllPieces,
        (run.config,),
        announced(batches, lambda: run.progress(0, len(sources), note)),
        num_actors=actors.num_actors,
        cpus_per_actor=actors.cpus_per_actor,
    ):
        found[at] = pieces
        done += len(batches[at])
        run.progress(done, len(sources), note)
    for at in sorted(found):
        yield from found[at]


class FindAllPieces:
    """`FindPieces` over a batch of files, for Ray's actors."""

    def __init__(self, config: Any) -> None:
        self.find = FindPieces(config)

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> list[Piece]:
        return [piece for source in batch for piece in self.find(source)]
