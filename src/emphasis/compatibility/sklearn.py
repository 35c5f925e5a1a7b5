"""Private names of scikit-learn."""

from sklearn.utils.multiclass import _check_partial_fit_first_call as check_partial_fit_first_call
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

__all__ = ["check_partial_fit_first_call", "check_sample_weight"]
