"""A run folder as it lies on disk: what was run, which images were undertaken, and the files of each.

`run.json` holds the facts of a run and the state of every id; a run shared between processes has one record a shard,
`run-2-of-4.json`. A run writes its own (`record`); scoring, exports and reports read it here and need no
model. The files of an id are named after it: `<id>.png`, `<id>.json`, `<id>.masks.png`, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovseg.compare import differences
from ovseg.json_files import read_json
from ovseg.run.bucket import Bucket, is_bucket
from ovseg.run.launch import SHARD_FILE, Shard
from ovseg.run.schema import FORMAT as FORMAT
from ovseg.run.schema import check_entry, check_record

RUN_FILE = "run.json"
RECORD_KEYS = {"format", "shard", "versions", "timings", "ids"}  # of a record, beside its facts
# Facts that do not count when runs are compared: where it ran does not say what was computed, and what follows from the
# names is told by them.
FREE_FACTS = {"device", "sources", "root", "colours", "no_label"}

MOST_SHOWN = 5  # missing shards that a message names

# What `ovseg eval predict` recorded as its method -> the mask source.
FORMER_METHODS = {
    "maskclip": "none",
    "maskclip+naive": "naive",
    "maskclip+slic": "slic",
    "maskclip+emerdiff": "emerdiff",
    "maskclip+truth": "truth",
}


@dataclass(frozen=True, repr=False)
class RunFolder:
    """A run on disk, its shards merged."""

    path: Path
    facts: dict[str, Any]  # command, names, options, models, ...: what decides the results
    ids: dict[str, dict[str, Any]]  # id -> file, state ("done", "failed", "pending", "damaged"), and seconds or error
    versions: dict[str, str]  # of the libraries
    bucket: Bucket | None = field(default=None, kw_only=True)  # where it lies, if on no disk; `path` only names it then

    def __repr__(self) -> str:
        return f"RunFolder({self.path}: {len(self.done)} of {len(self.ids)} images done)"

    @property
    def done(self) -> list[str]:
        """The ids that are done, sorted."""
        return sorted(id for id, entry in self.ids.items() if entry["state"] == "done")

    @property
    def home(self) -> Path:
        """The folder, to write into. Raises ValueError for a run in a bucket."""
        if self.bucket is not None:
            raise ValueError(f"out: {self.bucket} is a run in a bucket, where this is not written; give a local path")
        return self.path

    def file(self, id: str, suffix: str) -> Path:
        """The file of an id, by its ending: ".png", ".json", ".masks.png", ...; from a bucket it is fetched."""
        name = f"{id}{suffix}"
        return self.path / name if self.bucket is None else self.bucket.fetch(name)


def read_run(folder: str | Path) -> RunFolder:
    """Read a run's record, or those of all its shards. folder: on a disk, or an address in a store, "s3://bucket/run".

    Raises ValueError for a folder that holds no run, a damaged record, a shard that is missing, or shards that differ
    in what they ran (it names the key); OSError for a file that cannot be read.
    """
    bucket = Bucket(str(folder)) if is_bucket(folder) else None
    folder = Path(folder) if bucket is None else fetch_records(bucket)
    records = {path: read_record(path) for path in record_files(folder)}
    if not records:
        raise ValueError(f"{bucket or folder}: not a run folder, it holds no {RUN_FILE}")
    first, record = next(iter(records.items()))
    for path, other in list(records.items())[1:]:
        if found := differing(facts_of(record), facts_of(other)):
            raise ValueError(f"{first} and {path} are not of one run: {'; '.join(found)}")
    if match := SHARD_FILE.fullmatch(first.name):
        expected = [Shard(number, int(match[2])).file for number in range(1, int(match[2]) + 1)]
        if missing := [name for name in expected if folder / name not in records]:
            named = ", ".join(missing[:MOST_SHOWN]) + (
                f" and {len(missing) - MOST_SHOWN} more" * (len(missing) > MOST_SHOWN)
            )
            raise ValueError(f"{folder}: {named} missing; that shard has not been run, or not into here")
    ids = {id: entry for other in records.values() for id, entry in other["ids"].items()}
    path = folder if bucket is None else Path(bucket.url.replace("://", ":", 1))
    return RunFolder(path, facts_of(record), ids, record.get("versions") or {}, bucket=bucket)


def fetch_records(bucket: Bucket) -> Path:
    """Fetch a bucket's records; returns the folder that stands for it here."""
    for name in bucket.names:
        if is_record(name):
            bucket.fetch(name, keep=True)
    return bucket.folder


def recorded_facts(folder: Path) -> dict[str, Any]:
    """What the first record in a folder says of its run, whose other shards may not be there.

    Raises ValueError for a folder that holds no run, or a record that is damaged.
    """
    records = record_files(folder)
    if not records:
        raise ValueError(f"analyses: {folder}: no run folder, it holds no {RUN_FILE}")
    return facts_of(read_record(records[0]))


def record_files(folder: Path) -> list[Path]:
    """The records in a folder, none if it is not there: `run.json` alone, or the shards', all divided in one way.

    Raises ValueError, naming two, where they are of runs that were divided otherwise.
    """
    found = sorted(path for path in folder.iterdir() if is_record(path.name)) if folder.is_dir() else []
    for path in found:
        if division(path.name) != division(found[0].name):
            raise ValueError(f"{folder}: holds {found[0].name} and {path.name}; a folder is for one run")
    return found


def is_record(name: str) -> bool:
    """Whether a file of this name is the record of a run or of a shard."""
    return name == RUN_FILE or SHARD_FILE.fullmatch(name) is not None


def division(name: str) -> str:
    """Into how many shards the run of a record is divided, by its name: "4" for run-2-of-4.json, "" for run.json."""
    match = SHARD_FILE.fullmatch(name)
    return match[2] if match else ""


def facts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of the run as a whole; of a former one, in today's words."""
    facts = {key: value for key, value in record.items() if key not in RECORD_KEYS}
    if "by" not in facts and "command" in facts:
        options = facts.get("options") or {}
        former = "maskclip+naive" if options.get("upsampling") == "naive" else "maskclip+emerdiff"
        facts["by"] = FORMER_METHODS.get(facts.pop("method", former))
        if facts["by"] == "naive":
            facts["options"] = {**options, "upsampling": "naive"}
    return facts


def differing(facts: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Where two runs' facts differ, "options.masks 20 and 30"; `FREE_FACTS` do not count."""
    one, other = ({key: value for key, value in side.items() if key not in FREE_FACTS} for side in (facts, others))
    return differences(one, other, words="and")


def read_record(path: Path) -> dict[str, Any]:
    """One record as it lies on disk, checked; an entry of `ids` that is damaged has the state "damaged", and `error`.

    Raises ValueError, naming file and key, for a file that is no record or holds an id that leads out of the folder.
    """
    record = read_json(path)
    try:
        check_record(record)
    except ValueError as error:
        raise ValueError(f"{path}: not the record of a run ({error})") from error
    record["ids"] = {id: _checked(path, id, entry) for id, entry in record["ids"].items()}
    return record


def _checked(path: Path, id: str, entry: Any) -> dict[str, Any]:
    try:
        check_entry(id, entry)
    except ValueError as error:
        return {"file": "", "state": "damaged", "error": f"{path}: {error}"}
    return entry


def damage_of(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with a record's entries, a line each."""
    return [entry["error"] for entry in record["ids"].values() if entry["state"] == "damaged"]
