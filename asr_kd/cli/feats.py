"""``asr-kd feats``: data directory -> feature store."""

import argparse
import time
from typing import TYPE_CHECKING

from asr_kd.cli import add_jobs
from asr_kd.errors import counted

if TYPE_CHECKING:
    from asr_kd.features.config import FeatureConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``feats``."""
    parser.description = (
        "Compute the features of a data directory and write them to a frame store. The default is 40 log-mel energies\n"
        "every 10 ms, minus the speaker's mean. Reads any audio format and sample rate. After an interruption, the\n"
        "same command resumes.\n"
        "\n"
        "normalise=speaker (the default) needs several utterances of each speaker in each set. If a speaker occurs in\n"
        "several sets, each set subtracts a different mean, which hurts recognition; then use\n"
        "--set normalise=utterance for all sets."
    )
    parser.usage = "%(prog)s DATA STORE [options]\n       %(prog)s --print-config [--config FILE] [--set KEY=VALUE]"
    parser.epilog = (
        "examples:\n"
        "  asr-kd feats data/train exp/feats/train --jobs 2\n"
        "  asr-kd feats data/train exp/mfcc/train --set kind=mfcc --set normalise=utterance\n"
        "  asr-kd feats data/test exp/feats/test --like exp/feats/train\n"
        "all configuration keys, explained, with their defaults: asr-kd feats --print-config"
    )
    parser.add_argument("data", nargs="?", metavar="DATA", help="data directory (wav.scp, utt2spk, ...)")
    parser.add_argument("store", nargs="?", metavar="STORE", help="frame store to write")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--config", metavar="FILE", help="feature configuration (YAML); missing keys have their defaults"
    )
    source.add_argument("--like", metavar="STORE", help="use the configuration of this feature store")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override one key; repeatable")
    parser.add_argument("--print-config", action="store_true", help="print the configuration and stop")
    add_jobs(parser)
    parser.add_argument("--skip-bad", action="store_true", help="leave out, count and list unreadable audio")
    parser.add_argument("--allow-pipes", action="store_true", help="run the shell commands in wav.scp")
    parser.add_argument("--force", action="store_true", help="replace another store at STORE")
    parser.set_defaults(run=run, resumes=True)


def run(options: argparse.Namespace) -> None:
    """Compute, then print hours, frames, bytes and speed."""
    from asr_kd.config import explained
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.errors import UsageError
    from asr_kd.features.config import FRAME_SHIFT
    from asr_kd.features.feature_store import write_features

    config = _configuration(options)
    if options.print_config:
        print(explained(config), end="")
        return
    if options.store is None:
        raise UsageError("expected DATA and STORE (see asr-kd feats --help)")
    start = time.monotonic()
    datadir = read_data_dir(options.data, options.allow_pipes)
    store = write_features(datadir, options.store, config, options.jobs, options.skip_bad, options.force)
    wall = time.monotonic() - start
    seconds = store.total_frames * FRAME_SHIFT
    for utterance, reason in store.skipped.items():
        print(f"skipped {utterance}: {reason}")
    skipped = f", {len(store.skipped):,} skipped" if store.skipped else ""
    print(
        f"{options.store}: {counted(len(store), 'utterance')}{skipped}, {seconds / 3600:.2f} hours,"
        f" {store.total_frames:,} frames, {store.total_bytes:,} bytes; {wall:.1f} s, {seconds / wall:,.0f} times real"
        " time"
    )


def _configuration(options: argparse.Namespace) -> "FeatureConfig":
    from asr_kd.config import load_config
    from asr_kd.errors import UserError
    from asr_kd.features.config import FeatureConfig, stored_config
    from asr_kd.frames import FrameStore

    if not options.like:
        return load_config(FeatureConfig, options.config, options.set)
    if options.set:
        raise UserError("--like uses the whole configuration of a store; leave out --set")
    return stored_config(FrameStore(options.like))
