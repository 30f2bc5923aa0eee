"""What lies in a .wandb file: records of protobuf in LevelDB's log format."""

import json
import time
from pathlib import Path

from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


def records(path: Path):
    data, at, parts = path.read_bytes(), HEADER, []
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:  # a block's tail
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + HEADER : at + HEADER + length])
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            try:
                record.ParseFromString(b"".join(parts))
            except DecodeError:  # the process was killed
                return
            yield record
            parts = []


def finished(path: Path) -> Path:
    """The file, once its last record is there: another process writes it."""
    until = time.monotonic() + 10
    while exit_code(path) is None and time.monotonic() < until:
        time.sleep(0.01)
    return path


def history(path: Path) -> dict[int, dict]:
    """Step -> what was logged there."""
    rows: dict[int, dict] = {}
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.setdefault(record.history.step.num, {}).update(
                {name: value for name, value in items.items() if not name.startswith("_")}
            )
    return rows


def run(path: Path):
    """The run's record: id, project, names."""
    return next(record.run for record in records(path) if record.WhichOneof("record_type") == "run")


def config(path: Path) -> dict:
    """Names -> values."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in run(path).config.update}


def exit_code(path: Path) -> int | None:
    codes = [record.exit.exit_code for record in records(path) if record.WhichOneof("record_type") == "exit"]
    return codes[-1] if codes else None
