"""Training the networks of a recipe: data, jobs, processes and the folder of results."""
