"""``asr-kd targets``: the soft targets of a teacher, in frame stores."""

import argparse
import json
from collections.abc import Callable

from asr_kd.cli import add_device, add_jobs, sentence
from asr_kd.errors import counted


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of ``targets``."""
    parser.description = (
        "Soft targets: the distribution over states that a network or an ensemble gives to each frame of a transfer\n"
        "set, which needs no transcripts. Three forms: dense (every state), topk (the k best, and the mass of all\n"
        "others at each requested temperature), sampled (k states drawn at one temperature, with weights, unbiased)."
    )
    parser.epilog = (
        "example:\n  asr-kd targets write --teacher exp/ensemble --feats exp/feats/train exp/targets/top20 --k 20\n"
        "For the options of an action: asr-kd targets ACTION --help"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _configure_write(_action(actions, "write", _write, "teacher and features -> soft targets", _WRITE))
    _configure_compare(
        _action(actions, "compare", _compare, "how well each form and k approximates the teacher", _COMPARE)
    )
    _configure_import(
        _action(actions, "import", _import, "outputs of another toolkit's network -> soft targets", _IMPORT)
    )
    info = _action(
        actions, "info", _info, "print the form, temperatures, sizes and provenance of a store", "exp/targets/top20"
    )
    info.add_argument("store", metavar="STORE", help="store of soft targets")
    info.add_argument("--json", action="store_true", help="print the result as JSON")
    verify = _action(
        actions, "verify", _verify, "read every byte of a store, compare checksums, check values", "exp/targets/top20"
    )
    verify.add_argument("store", metavar="STORE", help="store of soft targets")


FORMS = ("dense", "topk", "sampled")

_WRITE = (
    "--teacher exp/ensemble --feats exp/feats/train exp/targets/top20 \\\n"
    "    --form topk --k 20 --temperatures 1,2,5,10 --states exp/states/train --jobs 2"
)

_COMPARE = (
    "--teacher exp/ensemble --feats exp/feats/train --states exp/states/train \\\n    --temperature 2 --k 5,10,20,50"
)

_IMPORT = (
    "posteriors.scp exp/targets/kaldi --values log-prob \\\n"
    "    --feats exp/feats/train --form topk --k 20 --temperatures 1,2,5,10"
)


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    purpose: str,
    example: str,
) -> argparse.ArgumentParser:
    action = actions.add_parser(
        name,
        help=purpose,
        description=sentence(purpose),
        epilog=f"example:\n  asr-kd targets {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action.set_defaults(run=run)
    return action


def _add_transfer_set(action: argparse.ArgumentParser) -> None:
    action.add_argument("--teacher", metavar="NETWORK", required=True, help="folder of a network or an ensemble")
    action.add_argument("--feats", metavar="STORE", required=True, help="features of the transfer set")
    action.add_argument("--utterances", metavar="LIST", help="use only the ids in this file or data directory")
    action.add_argument(
        "--states", metavar="STORE", help="labels, if there are any, to measure the teacher's frame accuracy"
    )


def _configure_write(write: argparse.ArgumentParser) -> None:
    write.set_defaults(resumes=True)
    write.description = (
        "Write the teacher's soft targets of each frame. After a kill or an interrupt, the same command resumes.\n"
        "Several processes or machines may share the work (--part, or torchrun); the store is byte-identical. Before\n"
        "writing, it prints the teacher's frame accuracy on the transfer set (with --states), the store's size, the\n"
        "free space and the time needed."
    )
    write.add_argument("out", metavar="OUT", help="the target store to write")
    _add_transfer_set(write)
    _add_form(write)
    precision = (
        "precision of the teacher's matrix products; auto: bf16 if the processor has it, else fp32 (default: fp32)"
    )
    write.add_argument("--precision", default="fp32", choices=("auto", "fp32", "bf16"), help=precision)
    add_device(write, "with cuda each torchrun process takes its own GPU, and --jobs is ignored")
    part = "write only part I of N (default: all; under torchrun, each process writes one)"
    write.add_argument("--part", metavar="I/N", help=part)
    write.add_argument("--dry-run", action="store_true", help="print the estimate and stop")


def _add_form(action: argparse.ArgumentParser) -> None:
    action.add_argument("--form", default="topk", choices=FORMS, help="what to store for each frame (default: topk)")
    k = "topk, sampled: states kept per frame (default: 20, or all if there are fewer)"
    action.add_argument("--k", type=int, metavar="K", help=k)
    temperatures = (
        "topk: temperatures at which students may train (default: 1,2,5,10); sampled: the temperature of the draws"
        " (default: 2)"
    )
    action.add_argument("--temperatures", metavar="T,T,...", help=temperatures)
    action.add_argument("--seed", type=int, default=0, metavar="N", help="sampled: seed of the draws (default: 0)")
    add_jobs(action)
    action.add_argument("--skip-bad", action="store_true", help="leave out, count and list bad utterances")
    action.add_argument("--force", action="store_true", help="replace another store at OUT")


def _configure_import(take: argparse.ArgumentParser) -> None:
    take.description = (
        "Write another toolkit's network outputs, a Kaldi archive of [frames, states] matrices, as soft targets.\n"
        "After a kill or an interrupt, the same command resumes."
    )
    take.add_argument("archive", metavar="ARK_OR_SCP", help="float matrices, one for each utterance")
    take.add_argument("out", metavar="OUT", help="the target store to write")
    values = "what the numbers are: unnormalised, natural logs of probabilities, or probabilities (default: logits)"
    take.add_argument("--values", default="logits", choices=("logits", "log-prob", "prob"), help=values)
    take.add_argument("--feats", metavar="STORE", help="the network's input features: their frame counts must match")
    take.add_argument("--num-states", type=int, metavar="N", help="columns to expect (default: those of the first)")
    _add_form(take)
    take.set_defaults(precision="fp32")


def _configure_compare(compare: argparse.ArgumentParser) -> None:
    compare.description = (
        "Measure on a sample of the transfer set how well dense, topk and sampled targets approximate the\n"
        "teacher at a temperature, and how large they are."
    )
    _add_transfer_set(compare)
    compare.add_argument(
        "--temperature", type=float, default=2.0, metavar="T", help="temperature of the student (default: 2)"
    )
    compare.add_argument("--frames", type=int, default=20_000, metavar="N", help="size of the sample (default: 20,000)")
    compare.add_argument("--k", metavar="K,K,...", help="values of k to compare (default: 5,10,20,50)")
    add_device(compare)
    compare.add_argument("--json", action="store_true", help="print the numbers unrounded, as JSON")


def _write(options: argparse.Namespace) -> None:
    import sys

    from asr_kd.frames import FrameStore, Unfinished, WriteOptions
    from asr_kd.frames.utterance_list import read_utterance_list
    from asr_kd.targets import Teacher, estimate, write_targets

    teacher = Teacher(options.teacher, FrameStore(options.feats), device=_device(options.device))
    config = _config(options)
    chosen = read_utterance_list(options.utterances) if options.utterances else None
    jobs = options.jobs if teacher.device == "cpu" else 1  # one process keeps a GPU busy
    how = WriteOptions(jobs, skip_bad=options.skip_bad, force=options.force, part=_part(options.part))
    if how.part[0] == 0:
        states = FrameStore(options.states) if options.states else None
        expected = estimate(teacher, options.out, config, chosen, states, how)
        print(describe_estimate(expected, config.for_states(teacher.num_states)), file=sys.stderr)
    if options.dry_run:
        return
    try:
        store = write_targets(teacher, options.out, config, chosen, how)
    except Unfinished as others:
        print(f"{others}; the part that finishes last completes the store")
        return
    _print_written(options.out, store.store)


def _import(options: argparse.Namespace) -> None:
    from asr_kd.frames import FrameStore, WriteOptions
    from asr_kd.targets import NetworkOutputs, import_targets

    features = FrameStore(options.feats) if options.feats else None
    outputs = NetworkOutputs(options.archive, options.values, features, options.num_states)
    how = WriteOptions(options.jobs, skip_bad=options.skip_bad, force=options.force)
    store = import_targets(outputs, options.out, _config(options), how)
    _print_written(options.out, store.store)


def _config(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from asr_kd.cli import numbers
    from asr_kd.targets import TargetConfig

    default = "2" if options.form == "sampled" else "1,2,5,10"
    temperatures = tuple(numbers("--temperatures", options.temperatures or default))
    return TargetConfig(options.form, options.k, temperatures, options.seed, options.precision)


def _print_written(out: str, store) -> None:  # type: ignore[no-untyped-def]
    print(
        f"{out}: {counted(len(store), 'utterance')}, {counted(store.total_frames, 'frame')}, {store.total_bytes:,}"
        " bytes"
    )
    for utterance, reason in store.skipped.items():
        print(f"skipped {utterance}: {reason}")


def describe_estimate(expected, config) -> str:  # type: ignore[no-untyped-def]
    """The estimate for people."""
    from asr_kd.progress import duration

    what = counted(expected.networks, "network")
    judged = "no labels to measure its accuracy (--states)"
    if expected.accuracy is not None:
        judged = f"frame accuracy {expected.accuracy:.1%} on {counted(expected.judged, 'frame')} of the transfer set"
    size = expected.bytes_per_frame * expected.frames
    form = config.form if config.form == "dense" else f"{config.form}, k = {config.k}"
    room = "" if expected.free is None else f" {expected.free / 1e9:,.1f} GB free;"
    return (
        f"teacher: {what}, {counted(expected.parameters, 'parameter')}; {judged}\n"
        f"{form}: {expected.bytes_per_frame:,} bytes a frame, {counted(expected.frames, 'frame')}, {size / 1e6:,.1f}"
        f" MB;{room} about {duration(expected.seconds)}"
    )


def _compare(options: argparse.Namespace) -> None:
    import dataclasses

    from asr_kd.cli import whole_numbers
    from asr_kd.frames import FrameStore
    from asr_kd.frames.utterance_list import read_utterance_list
    from asr_kd.targets.form_comparison import compare_forms
    from asr_kd.targets.teacher import Teacher

    comparison = compare_forms(
        Teacher(options.teacher, FrameStore(options.feats), device=_device(options.device)),
        options.temperature,
        options.frames,
        whole_numbers("--k", options.k) if options.k else None,
        read_utterance_list(options.utterances) if options.utterances else None,
        FrameStore(options.states) if options.states else None,
    )
    if options.json:
        print(json.dumps(dataclasses.asdict(comparison)))
        return
    print(describe_comparison(comparison), end="")


def describe_comparison(comparison) -> str:  # type: ignore[no-untyped-def]
    """The comparison as a table for people."""
    import dataclasses

    from asr_kd.score.table import Column, percent, plain, render

    columns = [
        Column("form", plain("form"), left=True),
        Column("k", plain("k")),
        Column("bytes/frame", plain("bytes_per_frame")),
        Column("lost mass %", percent("lost_mass")),
        Column("KL, nats", plain("divergence")),
        Column("variation %", percent("variation")),
        Column("entropy, nats", plain("entropy")),
        Column("frame accuracy %", percent("frame_accuracy")),
        Column("calibration error %", percent("calibration_error")),
    ]
    notes = [
        f"{counted(comparison.frames, 'frame')} of {counted(comparison.states, 'state')}, {comparison.labelled:,} with"
        f" labels, at temperature {comparison.temperature:g}; each further temperature adds 2 bytes to topk.",
        "KL(teacher || form), with the tail of topk spread evenly; infinite for sampled, and not shown.",
        "Variation: total variation distance; bias for topk, noise that averages out for sampled.",
    ]
    return render([dataclasses.asdict(row) for row in comparison.rows], columns, notes)


def _part(text: str | None) -> tuple[int, int]:
    import os

    from asr_kd.errors import UserError

    if text is None:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise UserError(f"--part {text}: expected I/N, such as 1/4 for the first of four parts")
    return int(number) - 1, int(parts)


def _device(name: str) -> str:
    """The device ``name``; under torchrun each process takes its own GPU."""
    import os

    from asr_kd.cli import torch_device
    from asr_kd.train.group import ALONE, Group

    started = "LOCAL_RANK" in os.environ
    group = Group(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if started else ALONE
    return str(group.device(torch_device(name)))


def _info(options: argparse.Namespace) -> None:
    from asr_kd.targets import TargetStore

    targets = TargetStore(options.store)
    store = targets.store
    content = {
        "form": targets.config.form,
        **({} if targets.config.form == "dense" else {"k": targets.config.k}),
        "temperatures": "any" if targets.config.form == "dense" else list(targets.config.temperatures),
        "states": targets.num_states,
        "utterances": len(store),
        "frames": store.total_frames,
        "bytes_per_frame": store.description.bytes_per_frame,
        "bytes": store.total_bytes,
        "shards": len(store.headers),
        "skipped": len(store.skipped),
        **{f"of {name}": value for name, value in store.inputs.items()},
        "asr_kd": store.version,
    }
    if options.json:
        print(json.dumps(content))
        return
    width = max(map(len, content))
    for name, value in content.items():
        print(f"{name:{width}}  {value:,}" if isinstance(value, int) else f"{name:{width}}  {value}")


def _verify(options: argparse.Namespace) -> None:
    from asr_kd.progress import Progress
    from asr_kd.targets import TargetStore
    from asr_kd.targets.verify import check_values

    targets = TargetStore(options.store)
    store = targets.store
    with Progress(store.total_bytes, f"verifying {options.store}", "bytes") as bar:
        for size in store.verify():
            bar.advance(size)
    check_values(targets)
    print(
        f"{options.store}: {counted(len(store.headers), 'shard')}, {store.total_bytes:,} bytes: checksums and values"
        " are valid"
    )
