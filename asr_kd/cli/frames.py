"""``asr-kd frames``: look into, check and convert frame stores."""

import argparse
import json
from collections.abc import Callable

from asr_kd.cli import sentence
from asr_kd.errors import counted


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of ``frames``."""
    parser.description = (
        "Frame stores hold numbers for each frame (features, states, soft targets) in checksummed shards.\n"
        "Look into them, check them, copy a part, and exchange them with Kaldi."
    )
    parser.epilog = (
        "example: asr-kd frames info exp/feats/train\nFor the options of an action: asr-kd frames ACTION --help"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], None], purpose: str, example: str
    ) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(
            name, help=purpose, description=sentence(purpose), epilog=f"example: asr-kd frames {name} {example}"
        )
        action.set_defaults(run=run)
        return action

    info = add("info", _info, "print the kind, tensors, sizes and provenance of a store", "exp/feats/train")
    info.add_argument("store", metavar="STORE", help="frame store")

    verify = add("verify", _verify, "read every byte of a store and compare checksums", "exp/feats/train")
    verify.add_argument("store", metavar="STORE", help="frame store")
    verify.add_argument(
        "--rebuild", action="store_true", help="rewrite index.json from the shards after verifying them"
    )

    copy = add("copy", _copy, "copy a store, or a part of it", "exp/feats/train exp/part --utterances part.txt")
    copy.add_argument("store", metavar="STORE", help="frame store")
    copy.add_argument("out", metavar="OUT", help="frame store to write")
    copy.add_argument("--utterances", metavar="LIST", help="use only the ids in this file or data directory")
    copy.add_argument("--shard-frames", type=int, metavar="N", help="frames per shard (default: 100,000)")
    copy.add_argument("--force", action="store_true", help="replace another store at OUT")

    export = add("export", _export, "write a Kaldi archive and, beside it, its .scp", "exp/feats/train feats.ark")
    export.add_argument("store", metavar="STORE", help="frame store")
    export.add_argument("ark", metavar="OUT.ark", help="archive to write; existing files are replaced")
    export.add_argument("--tensor", metavar="NAME", help="tensor to export (default: the store's only one)")

    take = add(
        "import", _import, "import a Kaldi archive (.ark or .scp) as a frame store", "ali.ark exp/ali --kind states"
    )
    take.add_argument("archive", metavar="ARK_OR_SCP", help="matrices or vectors, one for each utterance")
    take.add_argument("store", metavar="STORE", help="frame store to write")
    kinds = ("features", "states", "targets")
    kind = (
        "what the store holds. To train on it, prefer asr-kd hmm import-alignment for states (it records their number)"
        " and use asr-kd targets import for soft targets: a store of kind targets is only for export and copies"
    )
    take.add_argument("--kind", choices=kinds, required=True, help=kind)
    tensor = "name of the tensor, such as mfcc (default: fbank, state or log_prob)"
    take.add_argument("--tensor", metavar="NAME", help=tensor)
    take.add_argument(
        "--skip-bad", action="store_true", help="leave out, count and list utterances that cannot be imported"
    )
    take.add_argument("--force", action="store_true", help="replace another store at STORE")


def _info(options: argparse.Namespace) -> None:
    from asr_kd.frames import FrameStore

    store = FrameStore(options.store)
    print(f"{options.store}: {store.kind}, {counted(len(store), 'utterance')}, {counted(store.total_frames, 'frame')}")
    print(f"shards     {len(store.headers):,}, {store.total_bytes:,} bytes")
    for name, spec in store.tensors.items():
        shape = ", ".join(map(str, ("frames", *spec.shape)))
        print(f"tensor     {name} [{shape}] {spec.dtype}, {spec.bytes_per_frame:,} bytes a frame: {spec.meaning}")
    print(f"config     {json.dumps(store.config)}")
    for name, value in store.inputs.items():
        print(f"input      {name} {value}")
    print(f"content    {store.content_hash}")
    print(f"written by asr-kd {store.version}")
    for utterance, reason in store.skipped.items():
        print(f"skipped    {utterance}: {reason}")


def _verify(options: argparse.Namespace) -> None:
    from asr_kd.frames import FrameStore
    from asr_kd.frames.folders import publish_index
    from asr_kd.progress import Progress

    if options.rebuild:
        index = publish_index(options.store, verify=True)
        print(f"{options.store}: index rebuilt from {len(index.shards):,} intact shards")
        return
    store = FrameStore(options.store)
    with Progress(store.total_bytes, f"verifying {options.store}", "bytes") as bar:
        for size in store.verify():
            bar.advance(size)
    print(f"{options.store}: {counted(len(store.headers), 'shard')}, {store.total_bytes:,} bytes: all checksums match")


def _copy(options: argparse.Namespace) -> None:
    from asr_kd.frames import FrameStore, WriteOptions
    from asr_kd.frames.copy import copy_store
    from asr_kd.frames.plan import SHARD_FRAMES
    from asr_kd.frames.utterance_list import read_utterance_list

    names = read_utterance_list(options.utterances) if options.utterances else None
    frames = SHARD_FRAMES if options.shard_frames is None else options.shard_frames
    how = WriteOptions(shard_frames=frames, force=options.force)
    store = copy_store(FrameStore(options.store), options.out, names, how)
    print(
        f"{options.out}: {counted(len(store), 'utterance')}, {counted(store.total_frames, 'frame')},"
        f" {counted(len(store.headers), 'shard')}"
    )


def _export(options: argparse.Namespace) -> None:
    from asr_kd.frames import FrameStore
    from asr_kd.frames.kaldi_archives import export_kaldi

    store = FrameStore(options.store)
    scp = export_kaldi(store, options.ark, options.tensor)
    print(f"{options.ark}, {scp}: {counted(len(store), 'utterance')}")


def _import(options: argparse.Namespace) -> None:
    from asr_kd.frames import WriteOptions
    from asr_kd.frames.kaldi_archives import import_kaldi

    how = WriteOptions(skip_bad=options.skip_bad, force=options.force)
    store = import_kaldi(options.archive, options.store, options.kind, options.tensor, how)
    skipped = f", {len(store.skipped):,} skipped" if store.skipped else ""
    print(f"{options.store}: {counted(len(store), 'utterance')}{skipped}, {counted(store.total_frames, 'frame')}")
    for utterance, reason in store.skipped.items():
        print(f"skipped {utterance}: {reason}")
