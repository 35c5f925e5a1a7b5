"""Private names of LightGBM."""

from lightgbm.basic import _LIB

__all__ = ["close_connections"]


def close_connections() -> None:
    """Close this process's connections to the other machines of a distributed training; without any, do nothing.

    `Booster.free_network` does so for a booster, and a training that has failed has none.
    """
    _LIB.LGBM_NetworkFree()
