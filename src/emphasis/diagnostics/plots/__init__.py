"""Everything that draws: figures, pages and the terminal."""
