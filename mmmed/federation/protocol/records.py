"""Parts of Flower's records."""

from __future__ import annotations

from typing import TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from mmmed.federation.protocol.refusals import Refusal, Refused

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)


def payload(data: bytes) -> Array:
    """Bytes as a record carries them."""
    return Array("uint8", (len(data),), "safetensors", data)


def part(record: RecordDict, key: str, kind: type[Record]) -> Record:
    """One part of a reply. Raises Refused if it is not there, or of another kind."""
    value = record.get(key)
    if not isinstance(value, kind):
        raise Refused(Refusal.BAD_RECORD)
    return value


def tensor_bytes(record: RecordDict) -> int:
    """How many bytes of tensors a message's content holds."""
    # not by `record.array_records`: it ties the record into a cycle, and its memory waits for the garbage collector
    parts = [one for one in record.values() if isinstance(one, ArrayRecord)]
    return sum(len(array.data) for arrays in parts for array in arrays.values())
