"""Studies: what is done with many runs, such as a search for settings or an audit of labels."""
