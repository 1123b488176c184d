"""A small deterministic ClientApp that speaks the wire contract, and misbehaves as its node's config says.

Training moves every parameter a quarter of the way towards ``partition-id + 1``; evaluation reports the mean
parameter as "loss". ``behaviour`` (with ``phase`` and ``from-round``) picks a fault; what a site did is appended to
``<state-dir>/calls``.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from safetensors.numpy import load, save

from mmmed.config import RunConfig, from_flat
from mmmed.wire import pack, unpack
from server.app_config import read_run_config
from server.events import ignore
from server.loop import Rounds
from server.run_folder import RunFolder

app = ClientApp()
server_app = ServerApp()
SHAPES = {"layer.weight": (3, 2), "layer.bias": (2,), "scale": ()}


def initial() -> dict[str, np.ndarray]:
    """The model before round 1."""
    random = np.random.default_rng(0)
    return {key: np.asarray(random.normal(size=shape), np.float32) for key, shape in SHAPES.items()}


def trained(arrays: dict[str, np.ndarray], partition: int) -> dict[str, np.ndarray]:
    """What site ``partition`` makes of the global model."""
    return {key: np.asarray(v + 0.25 * (partition + 1 - v), np.float32) for key, v in arrays.items()}


def averaged(arrays: dict[str, np.ndarray], rounds: int, partitions: list[int]) -> dict[str, np.ndarray]:
    """The oracle: plain federated averaging of `trained`."""
    for _ in range(rounds):
        each = [trained(arrays, partition) for partition in partitions]
        arrays = {key: np.mean([site[key].astype(np.float64) for site in each], axis=0) for key in arrays}
        arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
    return arrays


def received(message: Message) -> dict[str, np.ndarray]:
    """The model that a request carries; Flower's own strategies send one array a parameter."""
    if "model" not in message.content["arrays"]:
        return {key: array.numpy() for key, array in message.content["arrays"].items()}
    return {key: value.numpy() for key, value in unpack(message.content["arrays"]["model"].data).items()}


def payload(data: bytes) -> Array:
    """Bytes as Flower carries them."""
    return Array("uint8", (len(data),), "safetensors", data)


@app.train()
def train(message: Message, context: Context) -> Message:
    """One local step."""
    config = _open(message, context)
    assert config.federation.rounds >= 1
    arrays = received(message)
    new = trained(arrays, int(context.node_config["partition-id"]))
    update = {key: torch.as_tensor(new[key] - arrays[key]) for key in new}
    content = RecordDict(
        {
            "arrays": ArrayRecord(
                {"update": payload(pack(update, config.federation.wire))}
                if "model" in message.content["arrays"]
                else {key: Array(value) for key, value in new.items()}
            ),
            "metrics": MetricRecord({"weight": 1.0, "step": 7.0}),
            "site": ConfigRecord({"name": _name(context), "epsilon": 1.5, "steps": 7}),
        }
    )
    return _misbehave(message, context, content) or Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The mean parameter."""
    _open(message, context)
    values = np.concatenate([value.ravel() for value in received(message).values()])
    content = RecordDict(
        {
            "metrics": MetricRecord({"weight": 1.0, "loss": float(values.mean())}),
            "site": ConfigRecord({"name": _name(context)}),
        }
    )
    return _misbehave(message, context, content) or Message(content, reply_to=message)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """What `server.app` does, with this module's model."""
    config = read_run_config(context.run_config)
    with RunFolder.create_or_open(Path(os.environ["MMMED_RUN_FOLDER"]), config) as folder:
        Rounds(grid, folder, ignore).run(initial())


def _name(context: Context) -> str:
    return str(context.node_config.get("name", f"site-{context.node_config['partition-id']}"))


def _state_dir(context: Context) -> Path | None:
    if "state-dir" in context.node_config:
        return Path(str(context.node_config["state-dir"]))
    root = os.environ.get("MMMED_STATE_DIR")
    return Path(root) / str(context.node_config["partition-id"]) if root else None


def _open(message: Message, context: Context) -> RunConfig:
    """Note the call, and check that the message alone tells the site what it needs."""
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    calls = int(context.state["calls"]["n"]) + 1 if "calls" in context.state else 1
    context.state["calls"] = MetricRecord({"n": calls})
    if (folder := _state_dir(context)) is not None:
        folder.mkdir(parents=True, exist_ok=True)
        line = {
            "phase": message.metadata.message_type,
            "round": config["server-round"],
            "run": config["run-id"],
            "calls": calls,
            "pid": os.getpid(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }
        with (folder / "calls").open("a") as file:
            file.write(json.dumps(line) + "\n")
    return from_flat(json.loads(str(config["run-config"])))


def calls(folder: Path) -> list[dict[str, object]]:
    """What the site with this state folder was asked."""
    path = folder / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _misbehave(message: Message, context: Context, content: RecordDict) -> Message | None:
    config = context.node_config
    behaviour = str(config.get("behaviour", ""))
    due = int(message.content["config"]["server-round"]) >= int(config.get("from-round", 1))
    if not behaviour or not due or message.metadata.message_type != config.get("phase", "train"):
        return None
    fault = FAULTS.get(behaviour)
    if fault is None:
        raise ValueError(behaviour)
    return fault(message, context, content)


def _raise(message: Message, context: Context, content: RecordDict) -> Message:
    context.state["secret"] = ConfigRecord({"patient": "Doe"})
    raise ValueError("patient Jane Doe, born 1950")


def _refuse(message: Message, context: Context, content: RecordDict) -> Message:
    return Message(Error(2, "budget-exhausted"), reply_to=message)


def _gossip(message: Message, context: Context, content: RecordDict) -> Message:
    return Message(Error(2, "patient Jane Doe is missing"), reply_to=message)


def _die(message: Message, context: Context, content: RecordDict) -> Message:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _say_first(message: Message, context: Context, content: RecordDict) -> Message | None:
    """Answer with the codes of ``codes``, one a call, and then as asked."""
    codes = str(context.node_config["codes"]).split()
    done = int(context.state["calls"]["n"])  # type: ignore[arg-type]
    return Message(Error(2, codes[done - 1]), reply_to=message) if done <= len(codes) else None


def _hang(message: Message, context: Context, content: RecordDict) -> Message:
    """Train for ever; on KeyboardInterrupt take half a second to commit."""
    folder = _state_dir(context)
    assert folder is not None
    (folder / "hanging").touch()
    try:
        time.sleep(600)
    finally:
        time.sleep(0.5)
        (folder / "committed").touch()
    raise AssertionError


def _edit(content: RecordDict, part: str, **values: object) -> RecordDict:
    content[part].update(values)  # type: ignore[union-attr,arg-type]
    return content


def _array(content: RecordDict, key: str, value: np.ndarray | None) -> RecordDict:
    """Replace one tensor of the update, or drop it; nothing is checked."""
    tensors = load(content["arrays"]["update"].data)
    tensors.pop(key, None)
    content["arrays"]["update"] = payload(save(tensors | ({} if value is None else {key: value})))
    return content


def _scaled(content: RecordDict, factor: float) -> RecordDict:
    tensors = load(content["arrays"]["update"].data)
    scaled = {key: np.asarray(value * factor, np.float32) for key, value in tensors.items()}
    return _edit(content, "arrays", update=payload(save(scaled)))


def _tables(content: RecordDict, tables: np.ndarray) -> RecordDict:
    content["tables"] = ArrayRecord({"tables": Array(tables)})
    return _edit(content, "site", **{"privacy.noise_multiplier": 1.0})


def _drop(content: RecordDict, part: str, key: str | None = None) -> RecordDict:
    if key is None:
        del content[part]
    else:
        del content[part][key]  # type: ignore[union-attr,arg-type]
    return content


ARBITRARY: dict[
    int, RecordDict
] = {}  # what "arbitrary" answers with, by partition, in the process that set it

FAULTS = {
    "arbitrary": lambda message, context, content: Message(
        ARBITRARY[int(context.node_config["partition-id"])], reply_to=message
    ),
    "raise": _raise,
    "refuse": _refuse,
    "gossip": _gossip,
    "die": _die,
    "hang": _hang,
    "say-first": _say_first,
    "nothing": lambda message, context, content: "no message",
}


def _register(name: str, edit: object) -> None:
    FAULTS[name] = lambda message, context, content: Message(edit(content), reply_to=message)  # type: ignore


_register("nan", lambda c: _array(c, "scale", np.array(np.nan, np.float32)))
_register("infinite", lambda c: _array(c, "layer.bias", np.array([1, np.inf], np.float32)))
_register("shape", lambda c: _array(c, "layer.bias", np.zeros(3, np.float32)))
_register("broadcast", lambda c: _array(c, "layer.bias", np.zeros(1, np.float32)))
_register("double", lambda c: _array(c, "scale", np.array(1.0)))
_register("extra-key", lambda c: _array(c, "other", np.zeros(1, np.float32)))
_register("no-key", lambda c: _array(c, "scale", None))
_register("huge", lambda c: _array(c, "scale", np.array(1e30, np.float32)))
_register("no-update", lambda c: _drop(c, "arrays", "update"))
_register("garbage", lambda c: _edit(c, "arrays", update=payload(b"\x00" * 64)))
_register("pickled", lambda c: _edit(c, "arrays", update=payload(pickle.dumps({"scale": 1.0}))))
_register("outlier", lambda c: _scaled(c, 1000.0))
_register("hostile", lambda c: _scaled(c, -50.0))
_register("no-arrays", lambda c: _drop(c, "arrays"))
_register("no-metrics", lambda c: _drop(c, "metrics"))
_register("no-site", lambda c: _drop(c, "site"))
_register("heavy", lambda c: _edit(c, "metrics", weight=1e6))
_register("weightless", lambda c: _edit(c, "metrics", weight=0.0))
_register("nan-weight", lambda c: _edit(c, "metrics", weight=float("nan")))
_register("markup-name", lambda c: _edit(c, "site", name="[bold]x[/bold]"))
_register("number-name", lambda c: _edit(c, "site", name=3))
_register("copycat", lambda c: _edit(c, "site", name="site-0"))
_register("copycat-1", lambda c: _edit(c, "site", name="site-1"))
_register("text-epsilon", lambda c: _edit(c, "site", **{"privacy.epsilon": "a lot"}))
_register("no-receipt", lambda c: _edit(c, "site", **{"privacy.receipt": 3}))
_register("endless-noise", lambda c: _edit(c, "site", **{"privacy.noise_multiplier": 1e308}))
_register("many-scores", lambda c: _edit(c, "metrics", **{f"m{i}": 1.0 for i in range(20_000)}))
_register("many-stated", lambda c: _edit(c, "site", **{f"s{i}": 1.0 for i in range(20_000)}))
_register("long-name", lambda c: _edit(c, "metrics", **{"m" * 5000: 1.0}))
_register("forged-name", lambda c: _edit(c, "metrics", **{"a\nround 9: fine": 1.0}))
_register("long-text", lambda c: _edit(c, "site", note="x" * 5_000_000))
_register("large-update", lambda c: _edit(c, "arrays", update=payload(b"\x00" * 5_000_000)))
_register("large-table", lambda c: _tables(c, np.zeros((200, 200, 100))))
_register("large-count", lambda c: _tables(c, np.full((1, 2, 20), 1e300)))
_register("other-table", lambda c: _tables(c, np.zeros((7, 2, 20))))
_register("nan-metric", lambda c: _edit(c, "metrics", loss=float("nan")))


@app.evaluate("untouched")
def evaluate_untouched(message: Message, context: Context) -> Message:
    """Try to change what other nodes see."""
    seen = dict(message.content["config"])
    message.content["config"]["mark"] = str(context.node_config["partition-id"])
    message.content["arrays"].clear()
    return Message(RecordDict({"seen": ConfigRecord(seen)}), reply_to=message)
