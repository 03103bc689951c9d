"""`genmodel inspect`, `diff`, `judge` and the others: arguments, exit status, and Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from pytest_genmodel._version import __version__
from pytest_genmodel.cli.terminal import Terminal
from pytest_genmodel.errors import BadInputError, GenmodelError
from pytest_genmodel.expectations import EXPECTATIONS

SAME, FOUND, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses: the same or clean; findings; bad usage or a checkpoint that cannot be opened; Ctrl-C."""
_SPEC = (
    "SPEC is a path (a diffusers folder, a component, a LoRA, a weights file, a trainer's output), owner/name of the "
    "hub, or tiny:NAME; SPEC@checkpoint-200, SPEC@latest or SPEC@ema says which set of weights of a trainer's output "
    "is meant. Exit status: 0 the same or clean, 1 findings, 2 bad usage or a checkpoint that cannot be opened."
)


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        self.exit(UNUSABLE, f"{self.prog}: {message} ({self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status; writes to stdout, and what cannot be done to stderr."""
    options = _parser().parse_args(arguments)
    terminal = Terminal(as_json=options.json, quiet=options.quiet, progress=options.progress)
    try:
        return _run(options, terminal)
    except KeyboardInterrupt:
        terminal.complain("interrupted")
        return INTERRUPTED
    except GenmodelError as error:
        terminal.complain(str(error))
        return UNUSABLE
    except BrokenPipeError:  # `genmodel ... | head`
        terminal.abandon()
        return FOUND
    except OSError as error:  # a file that goes away, or a disk, while it is read
        terminal.complain(f"{error.filename or 'reading'}: {error.strerror or error}")
        return UNUSABLE
    finally:
        terminal.close()


def _run(options: argparse.Namespace, terminal: Terminal) -> int:
    if options.command == "explain":
        from pytest_genmodel.cli.explain import explain

        return explain(options.code, terminal)
    if options.command == "inspect" and options.changed:
        from pytest_genmodel.cli.changed import inspect_changed

        return inspect_changed(options.checkpoint, terminal, strict=options.strict, allow=options.allow)
    if options.command == "inspect":
        from pytest_genmodel.cli.inspect import inspect

        if len(options.checkpoint) > 1:
            raise BadInputError("give one checkpoint, or --changed with the files that changed")
        return inspect(
            options.checkpoint[0],
            terminal,
            with_digests=options.digest,
            strict=options.strict,
            allow=options.allow,
        )
    if options.command == "report":
        from pytest_genmodel.cli.report import report

        return report(options.report, options.output, terminal, options.kind)
    if options.command == "judge":
        return _judge(options, terminal)
    if options.command == "accept":
        from pytest_genmodel.cli.accept import accept

        given = {"baseline": options.baseline, "yes": options.yes, "dry_run": options.dry_run}
        return accept(options.run, options.ids, terminal, **given)
    from pytest_genmodel.cli.diff import diff

    if options.most < 0:
        raise BadInputError(f"--most={options.most}: expected a whole number from 0")
    return diff(
        options.reference,
        options.candidate,
        terminal,
        expect=options.expect,
        strict=options.strict,
        most=options.most,
        allow=options.allow,
    )


def _judge(options: argparse.Namespace, terminal: Terminal) -> int:
    from pytest_genmodel.cli.judge import Wishes, judge

    wishes = Wishes(
        options.strict,
        options.allow,
        options.forget_allowed,
        options.tolerance,
        options.json_file,
        options.report_file,
    )
    return judge(options.run, wishes, terminal)


def _runs(commands: Any, common: argparse.ArgumentParser, allow: argparse.ArgumentParser) -> None:
    """What is done with a saved run."""
    judge = commands.add_parser(
        "judge",
        parents=[allow],
        help="judge a saved run again under another policy, without loading a model",
        epilog="RUN is a folder of pytest --genmodel-save-run. Without options the run is judged as it was. Exit "
        "status: that of the run under this policy; 2 bad usage, or no such run.",
    )
    judge.set_defaults(json=False, progress=False)
    judge.add_argument("run", metavar="RUN", help="the folder of a saved run")
    judge.add_argument(
        "--strict", action=argparse.BooleanOptionalAction, default=None, help="whether warnings fail"
    )
    judge.add_argument(
        "--no-allowed",
        dest="forget_allowed",
        action="store_true",
        help="what the run allowed is allowed no more",
    )
    judge.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="[CLAIM=]TOLERANCE",
        help="how far samples may be apart, as close:atol=1e-3, psnr:40 or reproducible=ulp:2; repeatable",
    )
    judge.add_argument("--json", dest="json_file", metavar="FILE", help="write the report there as JSON")
    judge.add_argument("--report", dest="report_file", metavar="FILE.html", help="write the page there")
    judge.add_argument("-q", "--quiet", action="store_true", help="write the summary only")

    accept = commands.add_parser(
        "accept",
        parents=[common],
        help="take what a saved run has seen as the baseline, after showing what changes",
        epilog="Exit status: 0 written, nothing to change, or --dry-run; 1 not written; 2 bad usage, or a run that "
        "nothing is accepted from.",
    )
    accept.add_argument("run", metavar="RUN", help="the folder of a saved run")
    accept.add_argument(
        "ids",
        metavar="ID",
        nargs="*",
        help="what to accept: `reference` (the candidate takes its place), a test's id, a golden value; default: all",
    )
    accept.add_argument("--baseline", metavar="FILE", help="the baseline to write (default: the run's)")
    accept.add_argument("-y", "--yes", action="store_true", help="write without asking")
    accept.add_argument("-n", "--dry-run", action="store_true", help="show what changes, and write nothing")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="genmodel",
        description="Look at checkpoints of image-to-video models: what is in them, what is wrong with them, how two "
        "differ; and at saved runs. No model is loaded or run.",
        epilog=_SPEC,
    )
    parser.add_argument("--version", action="version", version=f"pytest-genmodel {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="write one JSON document instead of text")
    common.add_argument("-q", "--quiet", action="store_true", help="write findings only, and no progress")
    common.add_argument(
        "--no-progress", dest="progress", action="store_false", help="show no progress of long scans"
    )
    strict = _Parser(add_help=False)
    strict.add_argument("--strict", action="store_true", help="warnings count as findings too")
    allow = _Parser(add_help=False)
    allow.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="'CODE: REASON'",
        help="a finding that is there on purpose, as --genmodel-allow; repeatable",
    )

    inspect = commands.add_parser(
        "inspect",
        parents=[common, strict, allow],
        help="what a checkpoint is, and what is wrong with it by itself",
        epilog=_SPEC,
    )
    inspect.add_argument("checkpoint", metavar="CKPT", nargs="+", help="a SPEC; with --changed, files")
    inspect.add_argument(
        "--changed",
        action="store_true",
        help="the arguments are files that changed: inspect each checkpoint that they are part of, once",
    )
    inspect.add_argument(
        "--digest",
        action="store_true",
        help="work out what identifies each component (reads all weights once more)",
    )

    diff = commands.add_parser(
        "diff",
        parents=[common, strict, allow],
        help="how a candidate differs from a reference, tensor by tensor",
        epilog=_SPEC,
    )
    diff.add_argument("reference", metavar="REF", help="the SPEC that is trusted")
    diff.add_argument("candidate", metavar="CAND", help="the SPEC that is judged; either may be partial")
    diff.add_argument(
        "--expect",
        choices=EXPECTATIONS,
        default="identical",
        metavar="HOW",
        help=f"how the candidate may differ: {', '.join(EXPECTATIONS)} (default: identical)",
    )
    diff.add_argument(
        "--most", type=int, default=10, metavar="N", help="tensors to list for each component (default: 10)"
    )

    explain = commands.add_parser("explain", parents=[common], help="what a rule means and what to do")
    explain.add_argument("code", metavar="CODE", nargs="?", help="as GM203; none lists every rule")

    report = commands.add_parser(
        "report", parents=[common], help="make another view of a JSON report: HTML, SARIF, Markdown ..."
    )
    report.add_argument("report", metavar="REPORT.json", help="what --genmodel-json wrote")
    report.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="where it goes; its ending says what it is, - is stdout",
    )
    report.add_argument(
        "--as",
        dest="kind",
        choices=("html", "sarif", "code-quality", "summary", "annotations"),
        help="what is written, where the ending of FILE does not say",
    )
    _runs(commands, common, allow)
    return parser


if __name__ == "__main__":
    sys.exit(main())
