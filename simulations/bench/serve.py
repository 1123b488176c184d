"""`mmmed serve` under four clients: studies a second, how long an answer takes, and its CPU beside a bare torch loop.

The server is a process of its own with the default model (random weights: they cost the same) and answers the
generated hospitals' films and notes over loopback. The loop reads the same files and notes with the same functions and
computes them in batches of as many as there are clients, more of which cannot be had at one time, without a server or a
check. How much of its CPU goes into reading is told apart.
"""

from __future__ import annotations

import csv
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import torch

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input
from mmmed.data.image import preprocess, read_image
from mmmed.demo import generate
from mmmed.modalities.image import ImageData
from mmmed.modalities.text import TextData, TextModel
from mmmed.models import MultimodalModel, build_model, load_tokenizer, save_model
from simulations.bench.measure import Row, parser, publish

_CLIENTS = (4, 16)
_WARM = 32  # studies
_AIMS: Row = {
    "clients": 4, "studies_per_s": 20, "p95_s": 0.5,
    "serve_cpu_ms": "", "bare_cpu_ms": "", "of_it_read": "", "cpu_ratio": 1.3,
}  # fmt: skip
_TICK = 1 / os.sysconf("SC_CLK_TCK")

Study = tuple[Path, str]  # film and note


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    options = parser("serve", (__doc__ or "").splitlines()[0], repeats=3)
    options.add_argument("--studies", type=int, default=128, help="requests of a repeat")
    options.add_argument("--clients", type=int, nargs="+", default=_CLIENTS, help="that ask at one time")
    chosen = options.parse_args(arguments)
    found: list[Row] = []
    torch.set_num_threads(1)  # and the server's: else the two would be compared in how they wait for threads
    with TemporaryDirectory() as folder:
        config = RunConfig()
        network = build_model(config).eval()
        save_model(Path(folder) / "model", network, config)
        studies = _studies(Path(folder) / "data", chosen.studies)
        with _server(Path(folder) / "model") as (url, process):
            for clients, _ in itertools.product(chosen.clients, range(chosen.repeats)):
                _ask(url, studies[:_WARM], clients)
                _bare(network, config, studies[:_WARM], clients)
                before, begun = _cpu(process), time.perf_counter()
                waits = _ask(url, studies, clients)
                wall, served = time.perf_counter() - begun, _cpu(process) - before
                bare, read = _bare(network, config, studies, clients)
                found.append(
                    {
                        "clients": clients,
                        "studies_per_s": len(studies) / wall,
                        "p95_s": float(np.percentile(waits, 95)),
                        "serve_cpu_ms": 1000 * served / len(studies),
                        "bare_cpu_ms": 1000 * bare / len(studies),
                        "of_it_read": 1000 * read / len(studies),
                        "cpu_ratio": served / bare,
                    }
                )
    found.append(_AIMS)
    publish(f"{chosen.studies} studies, a row a repeat; the last row is the aim", found, chosen.json)
    return 0


def _studies(folder: Path, count: int) -> list[Study]:
    data = generate(folder, scale=0.06)
    with (data / "data.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            (data / row["image"], row["text"]) for row in csv.DictReader(file) if row["image"] and row["text"]
        ]
    return [rows[number % len(rows)] for number in range(count)]


@contextmanager
def _server(model: Path) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "mmmed.cli", "serve", str(model), "--port", "0"]
    threads = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=threads) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1], process.pid
        process.terminate()


def _cpu(process: int) -> float:
    """CPU-seconds of a process until now (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def _ask(url: str, studies: Sequence[Study], clients: int) -> list[float]:
    """Seconds that each answer took."""
    with httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(clients) as pool:

        def ask(study: Study) -> float:
            film, note = study
            begun = time.perf_counter()
            files = {"image": (film.name, film.read_bytes()), "text": (None, note.encode())}
            client.post("predict", files=files).raise_for_status()
            return time.perf_counter() - begun

        return list(pool.map(ask, studies))


@torch.no_grad()
def _bare(
    network: MultimodalModel, config: RunConfig, studies: Sequence[Study], together: int
) -> tuple[float, float]:
    """CPU-seconds of a loop over the same studies, and those of them that went into reading."""
    image, tokens = config.data.of(ImageData), config.data.of(TextData).text_tokens
    tokenizer, target = load_tokenizer(config.model.of(TextModel).text), config.task.target()
    begun, read = time.process_time(), 0.0
    for start in range(0, len(studies), together):
        some, reading = studies[start : start + together], time.process_time()
        films = [
            preprocess(read_image(film, channels=image.image_channels), image.image_size) for film, _ in some
        ]
        notes = tokenizer(
            [note for _, note in some],
            padding="max_length", truncation=True, max_length=tokens, return_tensors="pt",
        )  # fmt: skip
        nobody = torch.zeros(len(some), dtype=torch.int64)
        inputs = {
            "image": Input(torch.from_numpy(np.stack(films)), torch.ones(len(some), 1, dtype=torch.bool)),
            "text": Input(notes["input_ids"], notes["attention_mask"].bool()),
        }
        read += time.process_time() - reading
        target.predictions(network(Batch(inputs, nobody, nobody)))
    return time.process_time() - begun, read
