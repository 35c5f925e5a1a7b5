"""What is made of a run's results: summaries, tables, figures and pages."""
