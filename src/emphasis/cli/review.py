"""`emphasis review`: decide on suspect labels one by one in the browser."""

from __future__ import annotations

import argparse

from emphasis.cli.options import Command, UsageError, add_page_options, path_argument, port_error, show_page
from emphasis.errors import EmphasisError

_DESCRIPTION = """\
Open a page that shows the examples of an audit one at a time, the most suspicious first, with the
network's probabilities and the nearest examples as evidence. One key keeps the label, accepts the
suggestion or chooses another class. Every decision is saved (decisions.jsonl in the audit's folder)
before the next example is shown. The order is learned from the decisions, and the page estimates
how many wrong labels remain. The page can be opened on this computer only, and works offline."""

_EXAMPLES = """\
examples:
  emphasis audit photos
  emphasis review runs/photos-audit
  emphasis review runs/photos-audit --reviewer ada --port 8000 --no-browser
  emphasis labels export runs/photos-audit --out cleaned.csv"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audit", type=path_argument, metavar="AUDIT", help="the folder of an audit")
    parser.add_argument("--reviewer", metavar="NAME", help="name of the reviewer (default: the user name)")
    parser.add_argument(
        "--decisions",
        type=path_argument,
        metavar="FILE",
        help="file of the decisions (default: decisions.jsonl in the audit's folder)",
    )
    parser.add_argument(
        "--relearn",
        type=int,
        metavar="N",
        help="learn the order again after N decisions; 0 keeps the audit's order (default: 25)",
    )
    add_page_options(parser)


def _review(options: argparse.Namespace) -> None:
    from emphasis.review.examples import read_examples
    from emphasis.review.server import serve

    if options.relearn is not None and options.relearn < 0:
        raise UsageError(f"--relearn {options.relearn} is not allowed; use a whole number >= 0")

    try:
        serve(
            read_examples(options.audit),
            options.decisions or options.audit,
            reviewer=_user() if options.reviewer is None else options.reviewer,
            port=options.port,
            relearn_every=options.relearn,
            show=lambda address: show_page(options, address),
        )
    except KeyboardInterrupt:
        print()
    except EmphasisError:
        raise
    except (OSError, OverflowError) as error:
        raise port_error(options, error) from error


def _user() -> str:
    """Return the name of the user, or "" if the system does not say."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


COMMANDS = [
    Command(
        name="review",
        summary="decide on suspect labels one by one in the browser",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        add_options=_add_options,
        handler=_review,
        extras=("review",),
    )
]
