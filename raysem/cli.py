"""`raysem ...`: corpora, recipes, the state of a run, search over its embeddings."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from raysem import config, logs, storage
from raysem.errors import RaysemError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Curate audio-text training data and train semantic audio models on it.",
)
corpus_app = typer.Typer(no_args_is_help=True, help="Read, check and pack corpora.")
app.add_typer(corpus_app, name="corpus")


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
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Where a run stands, from its files alone."""
    from raysem.run_status import describe, read_status

    found = read_status(storage.absolute(output))
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
    """One table over several runs (seeds, recipes): mean and standard deviation of each model's scores, as Markdown."""
    from raysem.reports.comparison import compare as compare_summaries

    summaries = []
    for run in runs:
        location = storage.join(storage.absolute(run), "summary.json")
        try:
            summaries.append(storage.read_json(location))
        except FileNotFoundError:
            raise UserError(f"{location}: no such file; the run has not finished") from None
    print(compare_summaries(summaries))


if __name__ == "__main__":
    main()
