"""``asr-kd feats``: data directory -> feature store."""

import argparse
import time


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``feats``."""
    parser.description = (
        "Compute the features of a data directory into a frame store: 40 log-mel energies for each 10 ms, less their\n"
        "speaker's mean. Any audio format and sample rate; run again after an interruption, it goes on."
    )
    parser.epilog = (
        "examples:\n"
        "  asr-kd feats data/train exp/feats/train --jobs 2\n"
        "  asr-kd feats data/train exp/mfcc/train --set kind=mfcc --set normalise=utterance\n"
        "  asr-kd feats data/test exp/feats/test --like exp/feats/train"
    )
    parser.add_argument("data", help="data directory (wav.scp, utt2spk, ...)")
    parser.add_argument("store", help="frame store to write")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", help="YAML file of a feature configuration (default: the values of FeatureConfig)")
    source.add_argument("--like", metavar="STORE", help="take the configuration of this feature store")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change one value")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out, count and list unreadable audio")
    parser.add_argument("--allow-pipes", action="store_true", help="run the shell commands in wav.scp")
    parser.add_argument("--force", action="store_true", help="replace a store of another configuration")
    parser.set_defaults(run=run, resumes=True)


def run(options: argparse.Namespace) -> None:
    """Compute, then print hours, frames, bytes and speed."""
    from asr_kd.config import from_dict, load_config
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.errors import UserError
    from asr_kd.features.config import FRAME_SHIFT, FeatureConfig
    from asr_kd.features.feature_store import write_features
    from asr_kd.frames import FrameStore

    if options.like and options.set:
        raise UserError("--like takes a whole configuration; leave out --set")
    if options.like:
        config = from_dict(FeatureConfig, FrameStore(options.like).config, where=options.like)
    else:
        config = load_config(FeatureConfig, options.config, options.set)
    start = time.monotonic()
    datadir = read_data_dir(options.data, options.allow_pipes)
    store = write_features(datadir, options.store, config, options.jobs, options.skip_bad, options.force)
    wall = time.monotonic() - start
    seconds = store.total_frames * FRAME_SHIFT
    for utterance, reason in store.skipped.items():
        print(f"skipped {utterance}: {reason}")
    skipped = f", {len(store.skipped):,} skipped" if store.skipped else ""
    print(
        f"{options.store}: {len(store):,} utterances{skipped}, {seconds / 3600:.2f} hours, {store.total_frames:,} "
        f"frames, {store.total_bytes:,} bytes; {wall:.1f} s, {seconds / wall:,.0f} times real time"
    )
