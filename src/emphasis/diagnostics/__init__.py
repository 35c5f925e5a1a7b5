"""What is emphasized: figures for files and for the terminal."""
