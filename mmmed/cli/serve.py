"""``mmmed serve``: a trained model over HTTP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mmmed.cli.options import LogFolder


def serve(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine only with a token and TLS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File of the token that requests must bear, readable by you alone."
        ),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    max_request_mb: Annotated[float, typer.Option(min=0.001, help="Most of a request that is read.")] = 64,
    max_seconds: Annotated[
        float, typer.Option(min=0.1, help="Most time to send a request, and again to answer it.")
    ] = 30,
    max_studies: Annotated[
        int, typer.Option(min=1, max=64, help="Studies that are answered at one time.")
    ] = 16,
    log: LogFolder = None,
    stow: Annotated[
        bool, typer.Option("--stow", help="Also take images by STOW-RS: POST /studies, answered by DICOM SR.")
    ] = False,
    dicom_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Also take images by C-STORE, from this machine; 0 for any port."
        ),
    ] = None,
    ae_title: Annotated[str, typer.Option(help="By which it must be called.")] = "MMMED",
    dicom_from: Annotated[
        list[str] | None, typer.Option(metavar="AET", help="AE title that may send; again for another.")
    ] = None,
    dicom_to: Annotated[
        str, typer.Option(metavar="dicom://AET@127.0.0.1:PORT", help="Where the reports (DICOM SR) go.")
    ] = "",
) -> None:
    """Answer questions about one study over HTTP: POST /predict and /explain. Nothing is kept but by --log."""
    from mmmed.extras import require

    require("serve", "mmmed serve")
    from mmmed.api import load_model
    from mmmed.errors import ConfigError
    from mmmed.inference.study import files
    from mmmed.serving.app import Served
    from mmmed.serving.guard import Bounds
    from mmmed.serving.run import check, read_token
    from mmmed.serving.run import serve as run_server
    from mmmed.serving.together import Together
    from mmmed.tasks import Text

    token = None if token_file is None else read_token(token_file)
    check(host, token, certificate, key)
    entrance = None
    if dicom_port is not None:
        require("reports", "--dicom-port")
        from mmmed.serving.entrance import read_entrance

        entrance = read_entrance(dicom_port, ae_title, dicom_from or [], dicom_to)
    elif dicom_from or dicom_to:
        raise typer.BadParameter("--dicom-from and --dicom-to go with --dicom-port")
    if stow:
        require("reports", "--stow")
    model = load_model(run, log=log)
    if stow and (isinstance(model.config.task, Text) or "image" not in model.inputs):
        raise ConfigError(
            "--stow: of a model that reads no image, or writes a text, there is no DICOM SR (TID 1500)"
        )
    if entrance is not None and isinstance(model.config.task, Text):
        raise ConfigError("--dicom-port: this model writes a text, of which there is no DICOM SR (TID 1500)")
    together = Together(model.network)
    served = Served(
        name=run.resolve().name,
        inputs=model.inputs,
        files=files(model.config.data),
        predict=replace(model, network=together).predict,  # type: ignore[arg-type]
        explain=model.explain,
        report=model.structured_report,
        stow=stow,
        close=together.close,
    )
    bounds = Bounds(int(max_request_mb * 1_000_000), max_seconds, max_studies)
    run_server(
        served,
        host=host,
        port=port,
        token=token,
        bounds=bounds,
        certificate=certificate,
        key=key,
        entrance=entrance,
    )
