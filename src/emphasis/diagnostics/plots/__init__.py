"""Figures and pages: everything that draws, for files, HTML pages, the browser and the terminal."""
