"""`raysem tag ...`: what a tagger hears in audio files, or in every clip of a table."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from raysem.cli_files import print_answers
from raysem.errors import UserError


def tag(
    model: Annotated[str, typer.Argument(help="folder of a tagger, or output folder of a `train_spa` run")],
    files: Annotated[list[str] | None, typer.Argument(help="audio files of any format, local or s3://")] = None,
    name: Annotated[str | None, typer.Option("--model", help="which tagger of a run that has several")] = None,
    top: Annotated[int, typer.Option(min=1, help="how many classes")] = 5,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="leave out classes of a lower probability")] = 0.0,
    crops: Annotated[
        int, typer.Option(min=1, help="evenly placed crops of a longer clip, averaged; 1: only its middle is heard")
    ] = 1,
    clips: Annotated[
        str | None, typer.Option(help="in place of files: a clips table, Parquet file or folder (from `corpus build`)")
    ] = None,
    output: Annotated[str | None, typer.Option(help="with --clips: folder for tags and rejects")] = None,
    address: Annotated[
        str | None, typer.Option(help="with --clips: a Ray cluster (default: RAY_ADDRESS, else a local Ray)")
    ] = None,
    max_failed_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="with --clips: stop if more cannot be used (default: 0.5)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs; of files one object a line")] = False,
) -> None:
    """The classes of highest probability, with their parents in the ontology.

    A file that cannot be used is named with the reason, the others go on, and the exit status is 1. With --clips every
    clip of a table is tagged on Ray; the same command goes on from where it was stopped, and `raysem listen build`
    reads the tags.
    """
    from raysem.config import build
    from raysem.runs.clip_tags import FileTagger, TagSettings
    from raysem.runs.found_tagger import find_tagger

    if bool(files) == (clips is not None):
        raise UserError("give audio files to tag, or a table of them with --clips" + (", not both" if files else ""))
    if clips is None and (output, address, max_failed_share) != (None, None, None):
        raise UserError("--output, --address and --max-failed-share go with --clips; tags of files are printed")
    if clips is not None and output is None:
        raise UserError("--clips needs --output, a folder for the tags")
    settings = build(TagSettings, {"num_tags": top, "threshold": threshold, "num_crops": crops}, "tag")
    location = find_tagger(model, name)
    if files:
        print_answers(FileTagger(location, settings).tag(files), len(files), as_json=as_json)
        return

    from raysem.runs.cluster import ClusterSettings
    from raysem.runs.table_tags import describe, tag_table

    found = tag_table(
        location,
        str(clips),
        str(output),
        settings=settings,
        cluster=ClusterSettings(address=address),
        max_failed_share=max_failed_share,
    )
    print(json.dumps(found.to_json(), indent=2) if as_json else describe(found))
