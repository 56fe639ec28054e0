"""``kdtool report``."""

from __future__ import annotations

import click

from kdtool.cli import options
from kdtool.system import strict_json


@click.command("report", short_help="Write one page on runs or a comparison, that opens offline.")
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...", type=options.PathName())
@click.option("-o", "--out", metavar="PAGE.html", help="The page.  [default: report.html in the folder]")
@options.json
@options.debug
def command(folders: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Write one self-contained HTML page on runs, comparisons and sets of `kdtool generate`: each FOLDER is one.

    Curves, networks side by side, classes, confusion, calibration, soft labels and embeddings; of a comparison the
    ranking with its intervals, and accuracy against latency. Networks are measured again, as `kdtool eval` does.

    \b
    Examples:
      kdtool report runs/resnet50-mobilenetv3-kd-1
      kdtool report runs/a runs/b -o both.html --json
    """
    from kdtool.report.report import write_report

    with options.guarded_stdout(as_json):
        found = write_report(folders, out, say=lambda text: click.echo(text, err=True))
    click.echo(strict_json.dumps(found, indent=2, ensure_ascii=False) if as_json else f"wrote {found['page']}")
