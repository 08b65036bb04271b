"""The steps of the job, and the pure libraries behind them; import each module by its name."""
