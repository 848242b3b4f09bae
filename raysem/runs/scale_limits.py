"""Which limit a growing run meets first: what it demands of each, over what there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MIB = 2**20
DRIVER_BYTES = 720 * MIB  # a driver with its libraries; benchmarks/results.json, driver_memory
BLOCKS_BYTES = 121 * MIB  # of `ray.data.from_items` in 20,000 blocks; measured
UNIT_BYTES = 460  # a unit: its dictionary (340) and Ray Data's copy (120); measured at 63,000 and 630,000
SORT_BYTES = 2 * 256 * MIB  # `write_shards`: the buffer and its sorted copy
SORT_ROW_BYTES = 50  # a row of the pool: its id and place (20, measured), its id and labels put aside (30)
MAX_SHARDS = 100_000  # names have five digits: with more, sorted by name is no longer sorted by clip_id
MAX_SHARD_PAIRS = 50_000_000  # of `match_above`


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a run asks for. None: not known."""

    clips: int
    shards: int
    driver_bytes: float
    shard_pairs: float | None
    """Scored pairs of one shard."""
    node_memory: Mapping[str, float]
    """Of one node, by stage."""
    store_bytes_per_node: float
    read_bytes_per_second: float | None


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One bound. Above a `use` of 1 the run does not fit."""

    what: str
    needed: float
    available: float
    unit: str
    remedy: str

    @property
    def use(self) -> float:
        """Share of what there is."""
        return self.needed / self.available


def driver_bytes(units: int) -> float:
    """Memory of a driver that hands out `units`."""
    return DRIVER_BYTES + BLOCKS_BYTES + UNIT_BYTES * units


def limits_of(
    demand: Demand,
    *,
    node_bytes: float | None,
    head_bytes: float | None,
    store_bytes: float | None,
    storage_bytes_per_second: float | None,
) -> tuple[tuple[Limit, ...], tuple[str, ...]]:
    """(limits, the nearest first; what is not judged, because a number is not known)."""
    found = [_shards(demand)]
    unknown = []
    if demand.shard_pairs is None:
        unknown.append("scored pairs of a shard: give --keep-rate")
    else:
        found.append(_pairs(demand.shard_pairs))
    if node_bytes is None or store_bytes is None:
        unknown.append("memory of a node, object store: give --memory-gib")
    else:
        found += _of_nodes(demand, node_bytes, store_bytes)
    if head_bytes is None:
        unknown.append("memory of the driver: give --memory-gib or --driver-gib")
    else:
        remedy = "raise curation.embed.clips_per_unit, run the pool in parts, or take a larger head"
        found.append(
            Limit(
                what="memory of the driver",
                needed=demand.driver_bytes,
                available=head_bytes,
                unit="bytes",
                remedy=remedy,
            )
        )
    if demand.read_bytes_per_second is None or storage_bytes_per_second is None:
        lacking = ["--storage-mib-per-second"] if storage_bytes_per_second is None else []
        lacking += ["--clip-kib, and rates of decode and embed"] if demand.read_bytes_per_second is None else []
        unknown.append(f"storage bandwidth: needs {', '.join(lacking)}")
    else:
        remedy = "a store nearer to the workers, more nodes, or a smaller audio format"
        needed = demand.read_bytes_per_second
        found.append(
            Limit(
                what="storage bandwidth",
                needed=needed,
                available=storage_bytes_per_second,
                unit="bytes/s",
                remedy=remedy,
            )
        )
    return tuple(sorted(found, key=lambda limit: -limit.use)), tuple(unknown)


def _shards(demand: Demand) -> Limit:
    remedy = "raise corpora.rows_per_shard, or run the pool in parts"
    return Limit(what="number of shards", needed=demand.shards, available=MAX_SHARDS, unit="shards", remedy=remedy)


def _pairs(shard_pairs: float) -> Limit:
    remedy = "raise curation.match_floor, or lower corpora.rows_per_shard"
    return Limit(
        what="scored pairs of one shard", needed=shard_pairs, available=MAX_SHARD_PAIRS, unit="pairs", remedy=remedy
    )


def _of_nodes(demand: Demand, node_bytes: float, store_bytes: float) -> list[Limit]:
    """The memory of a node by stage, and its object store."""
    found = [
        Limit(
            what=f"memory of a node, {stage}",
            needed=needed,
            available=node_bytes,
            unit="bytes",
            remedy=REMEDIES.get(stage, "take larger nodes"),
        )
        for stage, needed in demand.node_memory.items()
    ]
    remedy = "set cluster.embedding.max_decode_tasks, or lower curation.embed.clips_per_unit"
    return [
        *found,
        Limit(
            what="object store of a node",
            needed=demand.store_bytes_per_node,
            available=store_bytes,
            unit="bytes",
            remedy=remedy,
        ),
    ]


REMEDIES = {
    "embed": "lower curation.embed.clips_per_unit or cluster.embedding.max_decode_tasks",
    "match": "take fewer captions or CPUs a node, or raise curation.match_floor (one task ranks all pairs)",
    "neighbours": "take fewer captions or CPUs a node, or lower curation.neighbour_index.exact_up_to",
    "screen": "one task holds all clips: leave curation.duplicate_similarity and exclude_overlap_similarity out",
    "student": "lower student.training.cache_mib",
}
