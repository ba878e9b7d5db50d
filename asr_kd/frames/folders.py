"""The folder of a store by its path or URL."""

from pathlib import Path

from asr_kd.frames.folder import StoreFolder
from asr_kd.frames.index import Index
from asr_kd.frames.local_folder import LocalFolder
from asr_kd.frames.remote_folder import RemoteFolder
from asr_kd.storage import is_url


def folder_at(path: str | Path) -> StoreFolder:
    """The store's folder at ``path``, whether there is anything or not."""
    return RemoteFolder(str(path)) if is_url(path) else LocalFolder(Path(path))


def publish_index(path: str | Path, verify: bool = False) -> Index:
    """Make ``index.json`` of the store at ``path`` from its shards: ``StoreFolder.publish``."""
    return folder_at(path).publish(verify)
