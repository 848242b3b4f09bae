"""What raysem carries of AudioSet's ontology: a part of its graph for the synthetic corpus, and maps of labels.

`synthetic.json` holds 106 of AudioSet's 632 nodes in the same form: the classes of the synthetic corpus, the nodes that
the shortest paths between them lead over, and every ancestor of these. Ids, names, restrictions and edges are those of
AudioSet (Gemmeke et al., ICASSP 2017), so that its classes are as far apart as in the whole graph; the descriptions are
raysem's own. The label maps are tables beside the readers of the corpora; `raysem.corpora.label_map` reads them.
"""

from __future__ import annotations

from pathlib import Path

from raysem import storage
from raysem.errors import ConfigError

ONTOLOGIES = {"synthetic": "synthetic_audioset"}
"""The ontologies by name, each with the label map that names its classes."""
_LABEL_MAPS = Path(__file__).parents[1] / "corpora" / "label_maps"


def embedded_ontology(name: str) -> storage.Location:
    """The file of an ontology in `ONTOLOGIES`."""
    assert name in ONTOLOGIES
    return str(Path(__file__).with_name(f"{name}.json"))


def label_maps() -> list[str]:
    """The label maps that raysem carries, by name."""
    return sorted(file.stem for file in _LABEL_MAPS.glob("*.csv"))


def label_map_file(named: str) -> storage.Location:
    """The csv of a label map that is named by its name here, or by its own path or URI.

    Raises:
        ConfigError: a name that raysem does not carry, and no path to a csv either. Nothing is read.
    """
    if named in label_maps():
        return str(_LABEL_MAPS / f"{named}.csv")
    if "/" not in named and not named.endswith(".csv"):
        raise ConfigError(f"no label map {named!r}; there are {', '.join(label_maps())}, or name a csv of your own")
    return storage.absolute(named)
