"""Reports of runs and studies: summary, tables, figures and pages."""
