"""The formula of `Relative`, written a second time, in float64: what every kernel and front end is tested against."""

from torch.nn import functional as F


def relative_reference(logits, labels, weighting, share=None):
    """Loss (N,) and derivative (N, C) of the sum, without the mean's division, and the sum of what examples count.

    Args:
        logits: (N, C).
        labels: (N,) integers, or (N, C) probabilities.
        weighting: A `Relative`.
        share: (N, C), (N, 1) or None for 1: what a label of each class counts.
    """
    z = logits.detach().double()
    p = z.softmax(1)
    t = labels.double() if labels.is_floating_point() else F.one_hot(labels, z.shape[1]).double()
    t = t if share is None else t * share
    highest = p.amax(1, keepdim=True)
    contradiction = (t * (highest - p)).sum() / t.sum()
    d = 1.0 if weighting.doubt == 0.0 else min(1.0, float(contradiction) / weighting.doubt)
    # 1 - p as a sum over the others, those before and those after, which does not cancel where p is near 1.
    before, after = (F.pad(one.cumsum(1)[:, :-1], (1, 0)) for one in (p, p.flip(1)))
    rest = before + after.flip(1)
    of_example = t.sum(1, keepdim=True)
    room = ((of_example * rest).sum(0) / of_example.sum())[p.argmax(1, keepdim=True)]
    certainty = ((room - rest.amin(1, keepdim=True)) / room.clamp_min(1e-6)).clamp_min(0.0)
    trust = t * (p / highest) ** (weighting.q * d * certainty)
    gradient = trust.sum(1, keepdim=True) * p - trust
    return -(trust * z.log_softmax(1)).sum(1), gradient, t.sum()
