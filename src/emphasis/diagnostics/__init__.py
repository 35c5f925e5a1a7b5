"""What is emphasised: figures for files and for the terminal."""
