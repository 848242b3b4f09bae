"""`raysem listen ...`: a blind listening test of two models' tags, and its score."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from raysem import storage
from raysem.errors import UserError
from raysem.remote import NOTHING_THERE

listen_app = typer.Typer(no_args_is_help=True, help="Let people compare two models' tags by ear.")


@listen_app.command("build")
def listen_build(
    clips: Annotated[str, typer.Option(help="clips table: a Parquet file, or a folder (from `corpus build`)")],
    first: Annotated[str, typer.Option(help="one model's predictions: a Parquet file, or a folder of them")],
    second: Annotated[str, typer.Option(help="the other model's predictions")],
    output: Annotated[str, typer.Option(help="folder for page/index.html and key.json")],
    num_clips: Annotated[int | None, typer.Option(min=1, help="how many are drawn (default: 40)")] = None,
    num_tags: Annotated[int, typer.Option(min=1, help="tags in each list")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="draws the clips, their order and the sides")] = 0,
    ids: Annotated[str | None, typer.Option(help="text file with a clip_id a line, in place of a draw")] = None,
    max_seconds: Annotated[float, typer.Option(help="of longer clips only the beginning is played")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Write a web page on which people say whose tags fit the sound better, without knowing whose they are.

    Predictions have the columns clip_id and tags (list of name and score), or clip_id and scores with the names of the
    classes in the schema's metadata. Clips are drawn by the seed or named by --ids, never by their scores. Hand out the
    folder `page`; keep key.json, which says whose list is whose.
    """
    from raysem.config import build
    from raysem.listening.building import ListeningSettings, build_study

    if ids is not None and num_clips is not None:
        raise UserError("--ids names the clips, --num-clips draws them: give one of the two")
    given = {"num_tags": num_tags, "seed": seed, "max_seconds": max_seconds}
    settings = build(ListeningSettings, given | ({} if num_clips is None else {"num_clips": num_clips}), "listen build")
    chosen = None if ids is None else _read_ids(ids)
    study = build_study(clips, first, second, output, clip_ids=chosen, settings=settings)
    found = study.to_json()
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    print(f"study {found['study']}: {found['clips']} clips; the two lists are the same for {found['alike']} of them")
    if found["left_out"]:
        print(f"{len(found['left_out'])} clips of the draw cannot be played; the next ones were taken")
    print(f"page for the raters: {found['page']}  ({found['page_mib']} MiB)")
    print(f"key, not for them:   {found['key']}")


@listen_app.command("score")
def listen_score(
    key: Annotated[str, typer.Argument(help="key.json, from `listen build`")],
    answers: Annotated[list[str], typer.Argument(help="the files that raters saved, one each")],
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Who wins, for each rater and together: counts, win rate with interval, exact test; and how far raters agree."""
    from raysem.listening.scorecard import describe
    from raysem.listening.scoring import score_study

    score = score_study(storage.absolute(key), [storage.absolute(file) for file in answers])
    print(json.dumps(score.to_json(), indent=2, ensure_ascii=False) if as_json else describe(score))


def _read_ids(location: str) -> list[str]:
    location = storage.absolute(location)
    try:
        lines = storage.read_bytes(location).decode("utf-8-sig").splitlines()
    except NOTHING_THERE:
        raise UserError(f"--ids {location}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--ids {location}: not a text file ({error})") from None
    return [line.strip() for line in lines if line.strip()]
