"""``asr-kd experiment``: a table of systems -> trained, tested and reported."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from asr_kd.cli import add_action, add_jobs

IMPORTS = "asr_kd.cli.experiment_imports"
LAST = Path("experiment", "last_run.json")  # in the working folder

if TYPE_CHECKING:
    from asr_kd.experiment.plan import Plan
    from asr_kd.experiment.steps import Places, Step


def configure(parser: argparse.ArgumentParser) -> None:
    """Add ``run``, ``status``, ``commands`` and ``sizes``."""
    parser.description = (
        "Train, test and report the systems of a table: a YAML file that says what each network is trained on, from\n"
        "which labels, soft targets or teachers, with which configuration and seeds, and which tables and figures\n"
        "show it. Each step is an asr-kd command. A step is done when its output exists and neither its settings nor\n"
        "the content of its inputs has changed since."
    )
    parser.epilog = (
        "example:\n"
        "  asr-kd experiment run recipes/an4/experiment.yaml exp --jobs 8\n"
        "  asr-kd experiment run recipes/an4/experiment.yaml exp --only student_T5 --dry-run\n"
        "  asr-kd experiment status recipes/an4/experiment.yaml exp\n"
        "  asr-kd experiment commands recipes/an4/experiment.yaml exp --only student_T5\n"
        "docs/experiments.md lists the keys of a table, and what each state of a step means."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    example = "recipes/an4/experiment.yaml exp --jobs 8"
    run = add_action(actions, "experiment", "run", "run the steps that are not done", example)
    _add_selection(run)
    add_jobs(run, unit="processes at a time, of all steps together")
    run.add_argument("--dry-run", action="store_true", help="print the steps that would run, and why, and stop")
    redo = "delete the outputs of this system or step, and run it again; repeatable"
    run.add_argument("--redo", metavar="NAME", action="append", default=[], help=redo)
    adopt = "treat outputs without a record, such as those of an earlier version, as done, without checking them"
    run.add_argument("--adopt", action="store_true", help=adopt)
    run.set_defaults(run=_run, resumes=True)
    purpose = "print the state of each step (done, missing, running, failed, ...), and why"
    status = add_action(actions, "experiment", "status", purpose, example[:-9])
    _add_selection(status)
    status.set_defaults(run=_status)
    commands = add_action(
        actions, "experiment", "commands", "print the asr-kd command behind each step, to be run by hand", example[:-9]
    )
    _add_selection(commands)
    commands.set_defaults(run=_commands)
    purpose = "print sizes of models for the amount of speech in a data directory"
    sizes = add_action(actions, "experiment", "sizes", purpose, "data/train --of hmm")
    sizes.add_argument("datadir", type=Path, metavar="DIR", help="data directory to train on")
    of = "features, hmm or networks: as options of asr-kd feats, hmm train or experiment run (of recipes/own)"
    sizes.add_argument("--of", choices=("features", "hmm", "networks"), required=True, help=of)
    copies = "networks: copies of each utterance at other speeds (default: 0)"
    sizes.add_argument("--copies", type=int, default=0, metavar="N", help=copies)
    sizes.set_defaults(run=_sizes)


def _add_selection(action: argparse.ArgumentParser) -> None:
    action.add_argument("table", type=Path, metavar="TABLE", help="the table of systems (YAML)")
    work = "working folder: holds data/SET, features, states and graphs; networks and results are written there"
    action.add_argument("work", type=Path, metavar="WORK", help=work)
    only = "only this system, report or step (or all that match it, such as 'student_*'), and what it needs; repeatable"
    action.add_argument("--only", metavar="NAME", action="append", default=[], help=only)
    values = "replace one of the table's values, such as seeds=[1,2]; repeatable"
    action.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=values)
    action.add_argument("--small", action="store_true", help="the table's small form; reports go to WORK")
    stores = "folder or URL for frame stores: features, states, soft targets (default: WORK)"
    action.add_argument("--stores", metavar="STORES", help=stores)
    results = "folder for the reports (default: that of TABLE; with --small, WORK)"
    action.add_argument("--results", type=Path, metavar="DIR", help=results)


def _plan(options: argparse.Namespace) -> "Plan":
    from asr_kd.experiment.plan import Selection, make_plan

    results = options.results or (options.work if options.small else options.table.parent)
    selection = Selection(options.only, options.set, options.small)
    return make_plan(options.table, options.work, results, selection)


def _places(options: argparse.Namespace) -> "Places":
    from asr_kd.experiment.steps import Places

    return Places(options.work, options.stores)


REMEMBERED = ("set", "small", "stores", "results")


def _remember(options: argparse.Namespace) -> None:
    """Keep the options of ``run``, for a ``status`` or ``commands`` of the same table without any of them."""
    from asr_kd.files import write_json

    given = {name: getattr(options, name) for name in REMEMBERED}
    given["results"] = options.results and str(options.results.resolve())
    write_json(options.work / LAST, {"table": str(options.table.resolve()), **given})


def _recall(options: argparse.Namespace) -> None:
    """Take the options of the last ``run`` of this table in this working folder, unless some are given."""
    from asr_kd.files import read_json

    path = options.work / LAST
    if any(getattr(options, name) for name in REMEMBERED) or not path.exists():
        return
    last = read_json(path)
    if isinstance(last, dict) and last.get("table") == str(options.table.resolve()):
        for name in REMEMBERED:
            setattr(options, name, last.get(name))
        options.results = options.results and Path(options.results)


def _run(options: argparse.Namespace) -> None:
    import time

    from asr_kd.errors import UserError
    from asr_kd.experiment.exchange import Exchange
    from asr_kd.experiment.plan import provenance_words, reasons, redo, write_configs
    from asr_kd.experiment.records import Records
    from asr_kd.experiment.run import Options, run_steps
    from asr_kd.parallel import current_engine, visible_gpus
    from asr_kd.score.provenance import short_commit
    from asr_kd.storage import is_url

    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: expected at least 1")
    begun, commit = time.time(), short_commit()
    plan, records = _plan(options), Records(_places(options))
    if options.dry_run:
        for name, why in reasons(plan, records):
            print(f"{name}: {why}")
        return
    write_configs(plan, options.work)
    _remember(options)
    apart = current_engine().remote and options.stores and is_url(options.stores)
    exchange = Exchange(f"{options.stores}/work", records) if apart else None
    redo(plan, records, options.redo, exchange)

    def late(step: "Step") -> list[str]:
        return provenance_words(plan, records, commit, begun) if step.name.startswith("report ") else []

    how = Options(options.jobs, visible_gpus(), commit, options.adopt, late, IMPORTS, exchange)
    run_steps(plan.steps, plan.needs, records, _main, how)


def _status(options: argparse.Namespace) -> None:
    from asr_kd.errors import UserError
    from asr_kd.experiment.plan import status_table
    from asr_kd.experiment.records import Records

    if not options.work.is_dir():
        raise UserError(f"{options.work}: no such folder; give the working folder of `asr-kd experiment run`")
    _recall(options)
    plan = _plan(options)
    print(status_table(plan, Records(_places(options))), end="")


def _commands(options: argparse.Namespace) -> None:
    from asr_kd.experiment.plan import write_configs
    from asr_kd.experiment.steps import as_shell

    _recall(options)
    plan, places = _plan(options), _places(options)
    write_configs(plan, options.work)
    for name, step in plan.steps.items():
        print(f"# {name}\n{as_shell(step, places)}")


def _sizes(options: argparse.Namespace) -> None:
    from asr_kd.corpus.audio import audio_info
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.corpus.subset import contents
    from asr_kd.experiment.sizes import feature_settings, hmm_sizes, network_sizes

    datadir = read_data_dir(options.datadir)
    if options.of == "features":
        values = feature_settings({audio_info(str(entry)).sample_rate for entry in datadir.wav.values()})
    else:
        hours = contents(datadir).seconds / 3600
        values = hmm_sizes(hours) if options.of == "hmm" else network_sizes(hours, options.copies)
    print(" ".join(f"--set {name}={value}" for name, value in values.items()))


def _main(arguments: list[str]) -> int:
    """One command, in a process of its own."""
    from asr_kd.cli import main

    return main(arguments)
