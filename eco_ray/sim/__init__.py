"""The simulator: replays traces of jobs and carbon intensity through the code that decides live."""
