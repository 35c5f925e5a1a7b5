"""Decisions of reviewers, written in short."""

from emphasis.review.decisions import Decision


def decided(example, after, *, before="ant", reviewer="ada", **more):
    """Return the decision that an example labeled `before` is `after`; "" for unsure."""
    action = "unsure" if not after else "keep" if after == before else "other"
    return Decision(example=example, action=action, before=before, after=after, reviewer=reviewer, **more)
