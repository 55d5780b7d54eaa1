"""The shapes that a project's clips are cut to: planned once from its footage, recorded, and kept for footage that comes later."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.cluster.rows import map_batches
from components.ingest.scenes import FindPieces
from components.ingest.shapes import Piece, Plan, Shapes, extended, one_shape, plan_shapes
from components.ingest.sources import Source
from components.jobs.rows import announced
from components.jobs.run import Run
from components.operations.finetune import base_model
from components.operations.shapes import RECORD, of_padding, recorded_plan, shapes_in_tokens
from components.store import mirror
from components.store.choice import evenly

logger = logging.getLogger("kinora")

LOOKED_AT = 512  # files that shapes are planned from, evenly taken from all
FILES_PER_BATCH = 8
MUCH_PADDING = 0.05  # of what tokens hold


def shapes_of(run: Run, sources: Sequence[Source], todo: Sequence[Source], maker: str) -> Shapes:
    """Answers the shapes of a project's clips; the first time they are planned and recorded, until other settings ask for others.

    A plan that has none for images, or for films, gets some when there is footage of that kind; what is planned stays.

    Args:
        todo: those of the sources that are about to be cut.
        maker: of the clips that are cut to them.

    Raises:
        ValueError: no shape can be planned; one sentence with the way out.
    """
    clip, min_scene_seconds = run.config.clip, run.config.scenes.min_scene_seconds
    if clip.max_shapes == 1:
        return one_shape(clip)
    known = recorded_plan(run.project)
    if known is not None and known["maker"] == maker:
        looked_at, files, plan = [], known["files"], Plan.of(known["plan"])
    else:
        looked_at = evenly([source for source in sources if source.status == "found"], LOOKED_AT)
        pieces = list(_pieces(run, looked_at))
        if not pieces:  # then every file has its reason why no clip is cut of it
            return one_shape(clip)
        files, plan = len(looked_at), plan_shapes(pieces, clip, min_scene_seconds)
        _record(run, maker, files, plan)
    for still in (True, False) if clip.num_frames > 1 else ():
        new = evenly(_of_kind(todo, still, looked_at), LOOKED_AT)
        if new and not plan.shapes.of_kind(still):
            files += len(new)
            plan = extended(plan, [piece for piece in _pieces(run, new) if piece.still == still], clip, min_scene_seconds)
            _record(run, maker, files, plan)
    return plan.shapes


def _record(run: Run, maker: str, files: int, plan: Plan) -> None:
    """Keeps a plan, and says so where much of what it makes of the footage would be padding to the diffusion transformer."""
    clips = {(*vars(shape).values(),): count for shape, count in zip(plan.shapes.shapes, plan.clips, strict=True)}
    padded = shapes_in_tokens(run.config, clips, clips, {}, None, base_model(run.config, run.project))
    if (padded.padding or 0.0) > MUCH_PADDING:
        logger.warning("of planned clips %s", of_padding(run.config, padded))
    run.project.write_record(RECORD, {"maker": maker, "files": files, "plan": plan.as_dict()})
    mirror.push(run.project)  # at once: what goes on elsewhere cuts to the same


def _of_kind(sources: Sequence[Source], still: bool, apart_from: Sequence[Source]) -> list[Source]:
    """Answers the image files, or else the others, that can be read."""
    apart = {source.video_id for source in apart_from}
    return [source for source in sources if source.status == "found" and (source.kind == "image") == still and source.video_id not in apart]


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
