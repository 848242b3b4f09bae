"""`raysem ...`: corpora, recipes, the state of a run, search over its embeddings."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from raysem import config, logs, storage
from raysem.cli_classify import classify
from raysem.cli_listen import listen_app
from raysem.cli_plan import plan
from raysem.cli_tag import tag
from raysem.errors import RaysemError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Curate audio-text training data and train semantic audio models on it.",
)
corpus_app = typer.Typer(no_args_is_help=True, help="Read, check and pack corpora.")
app.add_typer(corpus_app, name="corpus")
ontology_app = typer.Typer(no_args_is_help=True, help="Look at the ontology of sound classes.")
app.add_typer(ontology_app, name="ontology")
text_app = typer.Typer(no_args_is_help=True, help="Look at the texts of classes.")
app.add_typer(text_app, name="text")
app.add_typer(listen_app, name="listen")
app.command()(tag)
app.command()(classify)
app.command()(plan)

OntologyOption = Annotated[
    str, typer.Option("--ontology", help="ontology.json or its folder (default: $RAYSEM_ONTOLOGY)", show_default=False)
]


def main() -> None:
    """The console script: a user's mistake is one line and exit status 2."""
    logs.set_up()
    try:
        app()
    except UserError as error:
        sys.exit(_failed(error, 2))
    except RaysemError as error:
        sys.exit(_failed(error, 1))


def _failed(error: RaysemError, status: int) -> int:
    print(f"raysem: {error}", file=sys.stderr)
    return status


@corpus_app.command("list")
def corpus_list(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """Every corpus that can be read: its name, licence and layout."""
    from raysem.corpora.registry import list_corpora

    found = list_corpora()
    if as_json:
        print(json.dumps([{"name": c.name, "title": c.title, "licence": c.licence, "root": c.root} for c in found]))
        return
    for corpus in found:
        print(f"{corpus.name:16} {corpus.title}\n{'':16} root: {corpus.root}\n{'':16} licence: {corpus.licence}")


@corpus_app.command("build")
def corpus_build(
    name: str,
    output: Annotated[str, typer.Option(help="folder for the tables")],
    root: Annotated[str, typer.Option(help="folder of the corpus, local or s3://; none for synthetic")] = "",
    option: Annotated[list[str] | None, typer.Option("--option", "-o", help="key=value of the corpus's reader")] = None,
    missing: Annotated[str | None, typer.Option(help="error, reject or keep: clips without their file")] = None,
    rows_per_shard: Annotated[int | None, typer.Option(min=1, help="default: 2000")] = None,
) -> None:
    """Read a corpus, check each row, write the clips and captions tables; or make the synthetic one."""
    from raysem.corpora.registry import build_corpus

    options = dict(config.parse_override(text, "--option") for text in option or ())
    summary = build_corpus(
        name,
        root,
        output,
        options,
        missing=missing,  # type: ignore[arg-type]
        rows_per_shard=rows_per_shard,
    )
    print(json.dumps(summary, indent=2, default=str))


@corpus_app.command("pack")
def corpus_pack(
    clips: Annotated[str, typer.Option(help="folder of a clips table (from `corpus build`)")],
    output: Annotated[str, typer.Option(help="folder for the packed shards")],
    shard_mib: Annotated[float, typer.Option(min=1)] = 256,
) -> None:
    """Copy a clips table with the audio bytes inside, in shards of about one size."""
    from raysem.corpora.packing import pack

    print(json.dumps(pack(clips, output, target_mib_per_shard=shard_mib), indent=2, default=str))


@ontology_app.command("show")
def ontology_show(
    name: Annotated[str, typer.Argument(help="name or id of a class")],
    ontology: OntologyOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """A class: where it stands, its description, its children."""
    from raysem.ontology.source import OntologySettings, load_ontology

    loaded = load_ontology(OntologySettings(file=ontology), key="--ontology")
    node = loaded.find(name)
    paths = [[step.name for step in path] for path in loaded.paths_to(node)]
    children = [loaded.nodes[id].name for id in node.child_ids]
    if as_json:
        about = {"description": node.description, "children": children, "restrictions": list(node.restrictions)}
        print(json.dumps({"id": node.id, "name": node.name, "paths": paths, **about}, indent=2, ensure_ascii=False))
        return
    print(f"{node.name}  {node.id}")
    for path in paths:
        print(f"  {' > '.join(path)}")
    for title, words in (("", node.description), ("children: ", ", ".join(children))):
        if words:
            print(f"  {title}{words}")
    if node.restrictions:
        print(f"  restrictions: {', '.join(node.restrictions)}")


@ontology_app.command("distance")
def ontology_distance(
    one: Annotated[str, typer.Argument(help="name or id of a class")],
    other: Annotated[str, typer.Argument(help="name or id of a class")],
    ontology: OntologyOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """How many edges lie between two classes, and a shortest way."""
    from raysem.ontology.source import OntologySettings, load_ontology

    loaded = load_ontology(OntologySettings(file=ontology), key="--ontology")
    first, last = loaded.find(one), loaded.find(other)
    distance, path = loaded.distances.distance(first.id, last.id), loaded.shortest_path(first, last)
    names = [node.name for node in path]
    print(json.dumps({"distance": distance, "path": names}) if as_json else f"{distance}  {' - '.join(names)}")


@text_app.command("neighbours")
def text_neighbours(
    name: Annotated[str, typer.Argument(help="name or id of a class")],
    ontology: OntologyOption = "",
    classes: Annotated[str, typer.Option(help="class_labels_indices.csv (default: the one beside the ontology)")] = "",
    texts: Annotated[
        str, typer.Option(help="description, name, prompt, or a csv with the columns class and description")
    ] = "description",
    encoder: Annotated[str | None, typer.Option(help="text encoder: name on the Hub, folder or URI")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="longer texts are cut")] = 100,
    cache: Annotated[str, typer.Option(help="folder for the vectors of texts")] = "~/.cache/raysem/label_tables",
    k: Annotated[int, typer.Option("-k", min=1, help="how many classes")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """The classes whose texts are nearest to that of a class: cosine, distance in the ontology, name."""
    from raysem.evaluation.label_texts import text_neighbourhood
    from raysem.ontology.source import OntologySettings
    from raysem.text.encoder import TextEncoderSettings

    named = {"name": encoder} if encoder else {}
    found = text_neighbourhood(
        name,
        OntologySettings(file=ontology, classes=classes),
        texts=texts,
        encoder=TextEncoderSettings(max_tokens=max_tokens, **named),
        cache=storage.absolute(cache),
        count=k,
    )
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    print(f"{found['name']}: {found['text']}")
    for row in found["neighbours"]:
        print(f"{row['similarity']:.4f}  {row['distance']:3d}  {row['name']}")
    print(f"similarity and distance, {found['classes']} classes: rank correlation {found['rank_correlation']:.3f}")


@app.command("show-config")
def show_config(
    recipe: Annotated[str | None, typer.Argument(help="recipe file (default: the quickstart)")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
) -> None:
    """The resolved recipe of `curate_and_train`, with every default, and its digest."""
    from raysem.runs.curate_and_train import JOB
    from raysem.runs.launch import load

    resolved = load(JOB, recipe, overrides or [])
    print(config.to_yaml(resolved), end="")
    print(f"# digest {config.digest(resolved)}")


@app.command()
def status(
    output: Annotated[str, typer.Argument(help="a run's output folder, local or s3://")],
    every_record: Annotated[
        bool, typer.Option("--every-record", help="exact counts of a stage at work, whatever that asks of the store")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Where a run stands, from its files alone."""
    from raysem.run_status import MAX_RECORDS, describe, read_status

    found = read_status(storage.absolute(output), limit=sys.maxsize if every_record else MAX_RECORDS)
    print(json.dumps(found, indent=2) if as_json else describe(found))


@app.command()
def search(
    output: Annotated[str, typer.Argument(help="a run's output folder")],
    query: Annotated[str, typer.Argument(help="a text, or an audio file")],
    k: Annotated[int, typer.Option("-k", min=1, help="how many clips")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """The clips of a run's pool that are nearest to a text or to a sound, by its teacher."""
    from raysem.runs.clip_search import search as search_clips

    found = search_clips(storage.absolute(output), query, k)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for row in found:
        about = f"  ({row['caption']})" if row["caption"] else ""
        print(f"{row['similarity']:.4f}  {row['clip_id']}  {row['path'] or ''}{about}")


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="output folders of finished runs")],
) -> None:
    """One table over several runs (seeds, recipes): mean and standard deviation of each model's scores, as Markdown.

    Runs that differ by seed only also get a table with intervals over clips and seeds.
    """
    from raysem.reports.comparison import compare as compare_summaries
    from raysem.runs.final_scores import read_clip_scores

    summaries, clip_scores = [], []
    for run in runs:
        location = storage.join(storage.absolute(run), "summary.json")
        try:
            summaries.append(storage.read_json(location))
        except FileNotFoundError:
            raise UserError(f"{location}: no such file; the run has not finished") from None
        clip_scores.append(read_clip_scores(storage.absolute(run), summaries[-1]))
    print(compare_summaries(summaries, clip_scores))


if __name__ == "__main__":
    main()
