"""Private names of other packages that this one uses, in one place each, so that a release that moves one is met here.

Methods that are overridden stay where the subclass is: `_process_params` of LightGBM's estimators in
`emphasis.boosting.lightgbm`, `_lgb_dask_fit` and `_lgb_dask_copy_extra_params` of its estimator on Dask in
`emphasis.boosting.dask.lightgbm`, and `_set_signature_columns_if_needed` of TRL's trainer in `emphasis.trl`.
"""
