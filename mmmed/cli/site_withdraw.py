"""``mmmed site withdraw``: a patient's consent is withdrawn, or an opt-out list has come."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmmed.cli.site_deploy import HERE, Site

app = typer.Typer()


@app.command()
def withdraw(
    patients: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATIENT]...", help="Ids; better in a --list than in your shell's history."),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option("--list", help="File with an id a line; - reads standard input.", allow_dash=True),
    ] = None,
    site: Site = HERE,
    key: Annotated[
        Path, typer.Option("--key", help="The key of `mmmed site ingest`, to find the hospital's own ids.")
    ] = Path("site-data.key"),
    erase: Annotated[
        bool, typer.Option("--erase", help="Also erase them from the ingested data set.")
    ] = False,
) -> None:
    """Leave patients out of everything from the next round on, erase what was made of them, and sign a receipt.

    Repeat it without ids to finish what was interrupted. Nothing of it leaves the site.
    """
    from client.site_folder import SiteFolder
    from client.withdrawal import withdraw as run
    from mmmed.text import shown

    named = [*(patients or ()), *(_read(ids) if ids is not None else ())]
    outcome = run(
        SiteFolder(site),
        named,
        key_file=key,
        erase=erase,
        waiting=lambda: print("on the list; waiting for the round that runs to end", flush=True),
    )
    print(f"{outcome.added} new on the opt-out list, {outcome.before} were on it")
    if outcome.unknown:
        print(
            f"nobody's in the data set of today ({len(outcome.unknown)}); they stay on the list for data to come:"
        )
        for one in outcome.unknown:
            print(f"  {shown(one)}")
    for line in outcome.words:
        print(shown(line, 1000))
    print(f"receipt: {outcome.receipt}" if outcome.receipt else "nothing was left to do")


@app.command()
def withdrawals(
    receipt: Annotated[Path | None, typer.Argument(help="Only verify and show this receipt.")] = None,
    site: Site = HERE,
    key: Annotated[
        str, typer.Option("--key", help="Public key of the site that signed the receipt, hexadecimal.")
    ] = "",
) -> None:
    """Verify the opt-out list and its receipts, and show them; or a receipt that somebody brings."""
    from client.opt_outs import list_in_force, read_receipt, receipts, unfinished
    from client.site_folder import SiteFolder
    from mmmed.text import shown
    from privacy.keys import load_key, parse_public_key

    if receipt is not None:
        if key:
            public = parse_public_key(key)
        else:
            public = load_key(SiteFolder(site).state.key).public_key()
        for line in read_receipt(receipt, public)["words"]:
            print(shown(line, 1000))
        print(f"signed by {public.public_bytes_raw().hex()}")
        return
    folder = SiteFolder(site)
    opt_outs = list_in_force(folder)
    if not len(opt_outs):
        print("nobody has withdrawn")
        return
    print(f"{len(opt_outs)} withdrawals are in force, since {shown(opt_outs.entries[0].at)}")
    public = load_key(folder.state.key).public_key()
    files = receipts(folder.state.withdrawn)
    for file in files:
        read_receipt(file, public)
        print(f"{file}: signed")
    if left := unfinished(folder):
        print(f"of {left} not everything is erased yet: repeat `mmmed site withdraw` without ids")


def _read(path: Path) -> list[str]:
    from mmmed.errors import DataError

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected UTF-8 text, an id a line") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
