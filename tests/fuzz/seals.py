"""Checksums that are corrected after a mutation, so that what lies behind them is reached."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

_OPENING = b'{"__metadata__":{"sha256":"'
_TOTALS = ("shards", "skipped", "frames", "utterances")


def seal(changed: Path, root: Path) -> None:
    """Correct every checksum of the store, ensemble or model folder below ``root`` that ``changed`` belongs to.

    A file that is too damaged for that is left alone.
    """
    with contextlib.suppress(
        ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError, yaml.YAMLError
    ):
        if (changed.parent / "index.json").exists():
            _seal_store(changed)
    folder = changed.parent
    while folder.is_relative_to(root):
        for name in ("ensemble.yaml", "model.yaml"):
            with contextlib.suppress(
                ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError, yaml.YAMLError
            ):
                if (folder / name).exists() and folder / name != changed:
                    _sign(folder, name)
        folder = folder.parent


def _sign(folder: Path, name: str) -> None:
    values = yaml.safe_load((folder / name).read_text())
    if name == "model.yaml":
        values["files"] = {file: _sha256(folder / file) for file in values["files"]}
    else:
        values["hashes"] = [_sha256(folder / member / "model.safetensors") for member in values["members"]]
    (folder / name).write_text(yaml.safe_dump(values, sort_keys=False))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _seal_store(changed: Path) -> None:
    """Make index and shards agree with ``changed``, which is one of them."""
    index = changed.parent / "index.json"
    values = json.loads(index.read_text())
    shards = sorted(changed.parent.glob("shard-*.safetensors"))
    if changed == index:
        description = {key: value for key, value in values.items() if key not in _TOTALS}
    else:
        description = read_about(changed)[1]["store"]
    for path in shards:
        header, about = read_about(path)
        if path != changed:
            about["store"] = description
        sign_shard(path, header, about)
    if changed != index:
        values = {**description, **{key: values[key] for key in _TOTALS}}
    for entry, path in zip(values["shards"], shards, strict=False):
        about = read_about(path)[1]
        entry["sha256"], entry["bytes"] = path.read_bytes()[8 + len(_OPENING) :][:64].decode(), path.stat().st_size
        if changed != index:
            entry["utterances"], entry["frames"] = len(about["utterances"]), about["offsets"][-1]
    index.write_text(json.dumps(values))


def read_about(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header of a shard, and the metadata in it."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header, json.loads(header["__metadata__"]["asr_kd"])


def sign_shard(path: Path, header: dict[str, Any], about: dict[str, Any]) -> None:
    """Write the shard at ``path`` again with this header and the checksum that it should have."""
    content = path.read_bytes()
    body = content[8 + int.from_bytes(content[:8], "little") :]
    others = {name: value for name, value in header["__metadata__"].items() if name != "sha256"}
    others["asr_kd"] = json.dumps(about, separators=(",", ":"))
    header = {**header, "__metadata__": {"sha256": "0" * 64, **others}}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head + body).hexdigest().encode()
    path.write_bytes(head.replace(b"0" * 64, digest, 1) + body)
